//! Who may. A page of another site, a name that was rebound to this host, and another user of this host are all
//! able to connect; none of them is let in.

use std::net::{IpAddr, SocketAddr};

use subtle::ConstantTimeEq;

use super::answer::Answer;
use super::head::RequestHead;
use super::peer_user::owner_of;
use super::routes::decode;
use crate::base::ids::{hex, random_array};
use crate::crypto::blake3_hash;

/// What needs no token: it tells little, and watchers have none.
const OPEN_PATHS: [&str; 2] = ["/health", "/api/health"];

/// Decides about every request before anything else looks at it.
pub struct Admission {
    port: u16,
    /// Names of this host beside the addresses that connections come to.
    names: Vec<String>,
    /// Of the token, so that comparing tells nothing of its length either.
    token_hash: Option<[u8; 32]>,
    /// What the cookie of this run holds.
    session: String,
}

impl Admission {
    pub fn new(bind: IpAddr, port: u16, host_name: &str, token: Option<&str>) -> Admission {
        let mut names = vec!["localhost".to_string(), "127.0.0.1".to_string(), "[::1]".to_string()];
        names.push(host_name.to_ascii_lowercase());
        if !bind.is_unspecified() {
            names.push(host_text(bind));
        }
        let session = hex(&random_array::<16>());
        Admission { port, names, token_hash: token.map(|token| blake3_hash(token.as_bytes())), session }
    }

    /// None where the request may go on; else what to answer.
    pub fn check(&self, head: &RequestHead, peer: SocketAddr, local: SocketAddr) -> Option<Answer> {
        let host = head.header("host").unwrap_or_default().to_ascii_lowercase();
        if !self.is_own_host(&host, local.ip()) {
            return Some(Answer::failure(
                403,
                "this Host is not known here: use the address that was printed at the start",
            ));
        }
        let origin = head.header("origin");
        let is_upgrade = head.header("upgrade").is_some();
        if (!head.is_reading() || is_upgrade) && origin.is_some_and(|origin| origin != format!("http://{host}")) {
            return Some(Answer::failure(403, "a page of another origin may not do this"));
        }
        if OPEN_PATHS.contains(&head.path()) || self.is_own_user(peer, local) {
            return None;
        }
        self.check_token(head)
    }

    fn is_own_host(&self, host: &str, local: IpAddr) -> bool {
        let port = format!(":{}", self.port);
        // The port of the scheme is left out by browsers.
        let name = host.strip_suffix(&port).or_else(|| Some(host).filter(|_| self.port == 80));
        name.is_some_and(|name| self.names.iter().any(|known| known == name) || name == host_text(local))
    }

    fn is_own_user(&self, peer: SocketAddr, local: SocketAddr) -> bool {
        let is_local = peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip();
        let own = rustix::process::geteuid().as_raw();
        is_local && owner_of(peer, local).is_some_and(|owner| owner == own || owner == 0)
    }

    fn check_token(&self, head: &RequestHead) -> Option<Answer> {
        let cookies = head.header("cookie").unwrap_or_default().split(';');
        let cookie =
            cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|(name, _)| *name == self.cookie());
        if cookie.is_some_and(|(_, value)| bool::from(value.as_bytes().ct_eq(self.session.as_bytes()))) {
            return None;
        }
        if head.header("authorization").and_then(|value| value.split_once(' ')).is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("Bearer") && self.fits(token.trim_start().as_bytes())
        }) {
            return None;
        }
        let query = head.target.strip_prefix("/?token=");
        if head.is_reading()
            && query.and_then(|token| decode(token, false).ok()).is_some_and(|token| self.fits(&token))
        {
            let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie(), self.session);
            let answer = Answer { status: 303, content_type: "text/plain", headers: Vec::new(), body: Vec::new() };
            return Some(answer.with("Location", "/".into()).with("Set-Cookie", cookie));
        }
        let text = match self.token_hash {
            Some(_) => "a token is wanted: open the address that was printed, or send Authorization: Bearer TOKEN",
            None => {
                "this page belongs to another user of this host: start it with a token (gui --token, server \
                 --dashboard-token) to let others in"
            }
        };
        Some(Answer::failure(401, text).with("WWW-Authenticate", "Bearer".into()))
    }

    fn fits(&self, token: &[u8]) -> bool {
        let Some(wanted) = &self.token_hash else { return false };
        blake3_hash(token).ct_eq(wanted).into()
    }

    /// Cookies know no ports: two pages of one host must not take each other's.
    fn cookie(&self) -> String {
        format!("cyberbackup_{}", self.port)
    }
}

/// An address as it stands in a Host.
pub fn host_text(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(admission: &Admission, text: &str) -> u16 {
        let head = RequestHead::parse(text.as_bytes()).unwrap();
        // Nobody's sockets: the token alone counts.
        let (peer, local) = ("192.0.2.1:5".parse().unwrap(), "192.0.2.2:9090".parse().unwrap());
        admission.check(&head, peer, local).map_or(200, |answer| answer.status)
    }

    #[test]
    fn the_host_must_be_ours_with_its_port() {
        let admission = Admission::new("127.0.0.1".parse().unwrap(), 9090, "Laptop", Some("secret"));
        for (host, wanted) in [
            ("127.0.0.1:9090", 401),
            ("LOCALHOST:9090", 401),
            ("[::1]:9090", 401),
            ("laptop:9090", 401),
            ("192.0.2.2:9090", 401),
            ("192.0.2.1:9090", 403),
            ("localhost", 403),
            ("localhost:80", 403),
            ("evil.example:9090", 403),
            ("localhost.evil.example:9090", 403),
            ("localhost:9090@evil", 403),
            ("", 403),
        ] {
            assert_eq!(status(&admission, &format!("GET / HTTP/1.1\r\nHost: {host}")), wanted, "{host}");
        }
    }

    #[test]
    fn changes_and_sockets_take_no_foreign_origin() {
        let admission = Admission::new("127.0.0.1".parse().unwrap(), 9090, "laptop", Some("secret"));
        let base = "Host: localhost:9090\r\nAuthorization: Bearer secret\r\n";
        for (line, wanted) in [
            ("POST / HTTP/1.1|X: y", 200),
            ("POST / HTTP/1.1|Origin: http://localhost:9090", 200),
            ("POST / HTTP/1.1|Origin: http://127.0.0.1:9090", 403),
            ("POST / HTTP/1.1|Origin: null", 403),
            ("POST / HTTP/1.1|Origin: http://evil.example", 403),
            ("POST / HTTP/1.1|Origin: https://localhost:9090", 403),
            ("GET / HTTP/1.1|Origin: http://evil.example", 200),
            ("GET /ws HTTP/1.1|Upgrade: websocket\r\nOrigin: http://evil.example", 403),
        ] {
            let (line, more) = line.split_once('|').unwrap();
            assert_eq!(status(&admission, &format!("{line}\r\n{base}{more}")), wanted, "{line} {more}");
        }
    }

    #[test]
    fn the_token_opens_and_the_cookie_stays() {
        let admission = Admission::new("127.0.0.1".parse().unwrap(), 9090, "laptop", Some("secret"));
        let get = |target: &str, more: &str| {
            status(&admission, &format!("GET {target} HTTP/1.1\r\nHost: localhost:9090{more}"))
        };
        assert_eq!((get("/", ""), get("/health", ""), get("/?token=wrong", "")), (401, 200, 401));
        assert_eq!((get("/?token=secret", ""), get("/api/status?token=secret", "")), (303, 401));
        assert_eq!(
            (get("/?token=%73ecre%74", ""), get("/?token=secret%", ""), get("/?token=%2573ecret", "")),
            (303, 401, 401)
        );
        assert_eq!(get("/", "\r\nAuthorization: bEARER  secret"), 200);
        assert_eq!(get("/", "\r\nAuthorization: Bearer secre"), 401);
        let cookie = format!("\r\nCookie: a=b; cyberbackup_9090={}", admission.session);
        assert_eq!((get("/", &cookie), get("/", &cookie.replace("9090=", "9091="))), (200, 401));
        let none = Admission::new("127.0.0.1".parse().unwrap(), 9090, "laptop", None);
        assert_eq!(status(&none, "GET /?token= HTTP/1.1\r\nHost: localhost:9090"), 401);
    }
}
