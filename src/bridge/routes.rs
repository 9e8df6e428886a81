//! Every route of the page's API, and the way from a request to its answer, for any table of routes.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use serde_json::Value;

use super::answer::Answer;
use super::app::App;
use super::error::ApiError;
use super::relay::LENGTH_HEADER;
use super::{api, api_host, api_jobs, api_settings, api_snapshots, api_upload, api_vault, assets};

/// JSON in a request, but for a list of files.
pub const BODY_BYTES_MAX: u64 = 64 * 1024;

type Handler<A> = fn(&mut Call<'_, A>) -> Result<Reply, ApiError>;

/// A method and a path, `{}` standing for one component, of what `A` answers.
pub struct Route<A> {
    pub method: &'static str,
    pub path: &'static str,
    handler: Handler<A>,
}

pub const fn get<A>(path: &'static str, handler: Handler<A>) -> Route<A> {
    Route { method: "GET", path, handler }
}

const fn post(path: &'static str, handler: Handler<App>) -> Route<App> {
    Route { method: "POST", path, handler }
}

/// All routes of the page.
pub const ROUTES: &[Route<App>] = &[
    get("/", assets::page),
    get("/static/{}", assets::part),
    get("/favicon.ico", assets::icon),
    get("/progress_config.json", api_settings::progress_file),
    get("/server_gui_settings.json", api_settings::page_file),
    get("/health", api::health),
    get("/api/health", api::health),
    get("/api/status", api::status),
    post("/api/server_key", api::server_key),
    post("/api/connect", api::connect),
    post("/api/disconnect", api::disconnect),
    get("/api/server_info", api::server_info),
    get("/api/stats", api::stats),
    get("/api/jobs", api_jobs::list),
    post("/api/jobs", api_jobs::create),
    get("/api/jobs/{}", api_jobs::look),
    post("/api/jobs/{}/cancel", api_jobs::cancel),
    post("/api/jobs/{}/pause", api_jobs::pause),
    post("/api/jobs/{}/resume", api_jobs::resume),
    post("/api/cancel/{}", api_jobs::cancel),
    post("/api/pause/{}", api_jobs::pause),
    post("/api/resume/{}", api_jobs::resume),
    Route { method: "PUT", path: "/api/jobs/{}/files/{}", handler: api_upload::put_file },
    post("/api/start_backup", api_upload::start_backup),
    get("/api/snapshots", api_snapshots::list),
    get("/api/snapshots/{}/entries", api_snapshots::entries),
    get("/api/snapshots/{}/file", api_snapshots::file),
    post("/api/restore", api_jobs::restore),
    get("/api/vault", api_vault::look),
    post("/api/vault/create", api_vault::create),
    post("/api/vault/open", api_vault::open),
    post("/api/vault/lock", api_vault::lock),
    post("/api/vault/passphrase", api_vault::change_passphrase),
    get("/api/vault/key", api_vault::key_file),
    get("/api/settings", api_settings::settings),
    post("/api/settings", api_settings::change_settings),
    get("/api/transfer_info", api_settings::transfer_info),
    post("/api/transfer_info", api_settings::change_transfer_info),
    get("/api/browse", api_host::browse),
    get("/api/received_files", api::received_files),
    get("/api/check_receipt/{}", api::check_receipt),
    get("/api/logs", api::logs),
    get("/api/openapi.json", assets::openapi),
];

/// Writes an answer; without its body where that is said.
pub type Stream = Box<dyn FnOnce(&mut dyn Write, bool) -> io::Result<()>>;

/// What a handler gives.
pub enum Reply {
    Answer(Answer),
    /// Writes head and body itself, as they come.
    Stream(Stream),
}

impl From<Value> for Reply {
    fn from(data: Value) -> Reply {
        Reply::Answer(Answer::ok(data))
    }
}

/// A request on its way through a handler.
pub struct Call<'a, A = App> {
    pub app: &'a Arc<A>,
    /// What stands for each `{}`, decoded.
    pub parts: Vec<Vec<u8>>,
    query: Vec<(String, Vec<u8>)>,
    pub content_type: String,
    /// What the body was announced to have; none where it comes in chunks.
    pub length: Option<u64>,
    pub body: &'a mut dyn Read,
}

impl<A> Call<'_, A> {
    /// A part of the path as text.
    pub fn part(&self, index: usize) -> Result<&str, ApiError> {
        let part = self.parts.get(index).map_or(&[][..], Vec::as_slice);
        std::str::from_utf8(part).map_err(|_| ApiError::bad("the path is no text"))
    }

    /// A value of the query.
    pub fn query(&self, name: &str) -> Option<&[u8]> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    /// A value of the query as text.
    pub fn query_text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.query(name) else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| ApiError::bad(format!("{name} is no text")))
    }

    /// A number of the query.
    pub fn query_number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.query_text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::bad(format!("{name} is no number")))
    }

    /// The body as JSON.
    pub fn json(&mut self) -> Result<Value, ApiError> {
        self.read_json(BODY_BYTES_MAX)
    }

    /// The body as JSON of at most so many bytes, read as it comes.
    pub fn read_json<T: for<'b> serde::Deserialize<'b>>(&mut self, most: u64) -> Result<T, ApiError> {
        let too_large = || ApiError::new(413, format!("the body has more than {most} bytes"));
        if self.length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let mut limited = (&mut *self.body).take(most + 1);
        let parsed = serde_json::from_reader(BufReader::new(&mut limited));
        match parsed {
            _ if limited.limit() == 0 => Err(too_large()),
            Ok(value) => Ok(value),
            Err(error) => Err(ApiError::bad(format!("the body is not the JSON that is wanted here: {error}"))),
        }
    }
}

/// Answers a request of the inner server by one of `routes`.
pub fn answer<A>(routes: &[Route<A>], app: &Arc<A>, mut request: tiny_http::Request) {
    let method = request.method().as_str().to_string();
    let target = request.url().to_string();
    let header = |name: &'static str| {
        let found = request.headers().iter().find(|header| header.field.equiv(name));
        found.map(|header| header.value.as_str().to_string())
    };
    let content_type = header("Content-Type").unwrap_or_default();
    let length = header(LENGTH_HEADER).and_then(|value| value.parse().ok());
    let is_head = method == "HEAD";
    let body = request.as_reader();
    let handled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let route = find(routes, if is_head { "GET" } else { &method }, path)?;
        let (route, parts) = match route {
            Found::Route(route, parts) => (route, parts),
            Found::OtherMethods(allowed) => {
                let answer = Answer::failure(405, "this address takes another method");
                return Ok(Reply::Answer(answer.with("Allow", allowed.join(", "))));
            }
        };
        let query = parse_query(query)?;
        (route.handler)(&mut Call { app, parts, query, content_type, length, body })
    }));
    let reply = match handled {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => Reply::Answer(error.answer()),
        Err(_) => Reply::Answer(Answer::failure(500, "this program failed: its log says more")),
    };
    let mut out = request.into_writer();
    let written = match reply {
        Reply::Answer(answer) => answer.write(&mut out, is_head),
        Reply::Stream(stream) => stream(&mut out, is_head),
    };
    if let Err(error) = written.and_then(|()| out.flush()) {
        log::debug!("{method} {target}: the answer was not taken: {error}");
    }
}

/// What there is at an address.
enum Found<'r, A> {
    /// With what stands for each `{}`.
    Route(&'r Route<A>, Vec<Vec<u8>>),
    OtherMethods(Vec<&'static str>),
}

fn find<'r, A>(routes: &'r [Route<A>], method: &str, path: &str) -> Result<Found<'r, A>, ApiError> {
    let mut allowed = Vec::new();
    for route in routes {
        let Some(parts) = matching(route.path, path)? else { continue };
        if route.method == method {
            return Ok(Found::Route(route, parts));
        }
        allowed.push(route.method);
    }
    match allowed.is_empty() {
        true => Err(ApiError::missing("there is nothing at this address")),
        false => Ok(Found::OtherMethods(allowed)),
    }
}

/// What stands for each `{}` of a route, if it fits.
fn matching(route: &str, path: &str) -> Result<Option<Vec<Vec<u8>>>, ApiError> {
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    let fits = |(wanted, found): (&&str, &&str)| wanted == found || (*wanted == "{}" && !found.is_empty());
    if route.len() != path.len() || !route.iter().zip(&path).all(fits) {
        return Ok(None);
    }
    let open = route.iter().zip(&path).filter(|(wanted, _)| **wanted == "{}");
    open.map(|(_, found)| decode(found, false)).collect::<Result<_, _>>().map(Some)
}

fn parse_query(text: &str) -> Result<Vec<(String, Vec<u8>)>, ApiError> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((String::from_utf8_lossy(&decode(key, true)?).into_owned(), decode(value, true)?))
        })
        .collect()
}

/// Undoes percent-encoding.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Result<Vec<u8>, ApiError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' if plus_is_space => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(ApiError::bad("the percent-encoding is wrong")),
                }
            }
            other => other,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::super::assets::Page;
    use super::*;

    #[test]
    fn routes_take_one_component_for_each_brace() {
        let parts = |route, path| matching(route, path).unwrap();
        assert_eq!(parts("/api/jobs/{}", "/api/jobs/a%20b"), Some(vec![b"a b".to_vec()]));
        assert_eq!(parts("/api/jobs/{}", "/api/jobs/"), None);
        assert_eq!(parts("/api/jobs/{}", "/api/jobs/a/b"), None);
        assert_eq!(parts("/static/{}", "/static/%2e%2e%2fx"), Some(vec![b"../x".to_vec()]));
        assert!(matching("/static/{}", "/static/%2").is_err());
    }

    /// A document has exactly these routes.
    fn assert_describes<A: Page>(routes: &[Route<A>]) {
        use std::collections::BTreeSet;
        let document: Value = serde_json::from_str(A::OPENAPI).unwrap();
        let bare = |path: &str| {
            let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
            parts.collect::<Vec<_>>().join("/")
        };
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| (bare(path), method.to_uppercase()))
            })
            .collect();
        let known: BTreeSet<_> =
            routes.iter().map(|route| (route.path.to_string(), route.method.to_string())).collect();
        assert_eq!(described, known);
        assert_eq!(known.len(), routes.len());
    }

    #[test]
    fn the_openapi_documents_have_all_routes_and_no_others() {
        assert_describes(ROUTES);
        assert_describes(crate::bridge::dashboard::ROUTES);
    }

    #[test]
    fn queries_are_decoded() {
        let query = parse_query("path=a%2Fb+c&x&y=%ff").unwrap();
        let wanted = [("path", &b"a/b c"[..]), ("x", b""), ("y", b"\xff")];
        assert_eq!(query, wanted.map(|(key, value)| (key.to_string(), value.to_vec())));
    }
}
