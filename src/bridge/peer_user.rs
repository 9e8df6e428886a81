//! Whose socket is at the other end of a connection on this host: Linux lists the owner of each.

use std::net::{IpAddr, SocketAddr};

/// The user who owns the socket at `peer` that is connected to `local`; none where that cannot be told.
///
/// A socket that nobody holds any more is listed with the user 0 and the inode 0: it proves nothing, and somebody
/// who has sent a request and closed must not count as root for that.
#[cfg(target_os = "linux")]
pub fn owner_of(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let wanted = [(peer, local), (mapped(peer), mapped(local))].map(|(peer, local)| (listed(peer), listed(local)));
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|file| {
        use std::io::BufRead;
        let lines = std::io::BufReader::new(std::fs::File::open(file).ok()?).lines();
        lines.map_while(Result::ok).find_map(|line| owner_in_line(&line, &wanted))
    })
}

#[cfg(not(target_os = "linux"))]
pub fn owner_of(_peer: SocketAddr, _local: SocketAddr) -> Option<u32> {
    None
}

/// `sl local remote state queues timer retransmits uid timeout inode …`
fn owner_in_line(line: &str, wanted: &[(String, String)]) -> Option<u32> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, remote) = (*fields.get(1)?, *fields.get(2)?);
    if !wanted.iter().any(|(peer, own)| local == peer && remote == own) {
        return None;
    }
    let inode: u64 = fields.get(9)?.parse().ok()?;
    let owner = fields.get(7)?.parse().ok()?;
    (inode != 0).then_some(owner)
}

/// An IPv4 address as a socket for IPv6 sees it, or the other way round.
fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
    };
    SocketAddr::new(ip, address.port())
}

/// An address as the kernel lists it: words of four bytes in the host's order.
fn listed(address: SocketAddr) -> String {
    let words = |bytes: &[u8]| -> String {
        let word = |four: &[u8]| u32::from_ne_bytes(four.try_into().expect("chunks of four"));
        bytes.chunks_exact(4).map(|four| format!("{:08X}", word(four))).collect()
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_owner_of_an_own_connection_is_found_and_of_a_closed_one_is_not() {
        use std::net::{TcpListener, TcpStream};
        let me = rustix::process::geteuid().as_raw();
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            assert_eq!(owner_of(peer, local), Some(me));
            drop(client);
            assert_eq!(owner_of(peer, local), None);
        }
    }

    #[test]
    fn an_orphan_is_not_root() {
        let wanted = [("0100007F:0001".to_string(), "0100007F:0002".to_string())];
        let line = |uid: u32, inode: u64| {
            format!(
                "   1: 0100007F:0001 0100007F:0002 04 00000000:00000000 00:00000000 00000000 {uid:5} 0 {inode} 1"
            )
        };
        assert_eq!(owner_in_line(&line(0, 0), &wanted), None);
        assert_eq!(owner_in_line(&line(0, 7), &wanted), Some(0));
        assert_eq!(owner_in_line(&line(1000, 7), &wanted), Some(1000));
        assert_eq!(owner_in_line("x", &wanted), None);
    }
}
