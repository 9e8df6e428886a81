//! A line between client and server that knows where frames begin and end, and can do harm: it hears
//! everything, and what goes on is what the test says.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::support::relay::{Relay, UnderWay};

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What becomes of the frames of one connection in one way: the bytes that go on, or none to cut the line.
pub type Harm = Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>> + Send>;

/// Frames on their way are data segments if they have one of these codes.
pub const DATA_TO_SERVER: u16 = 1042;
pub const DATA_TO_CLIENT: u16 = 1642;

pub fn header_bytes(way: Way) -> usize {
    match way {
        Way::ToServer => 23,
        Way::ToClient => 7,
    }
}

pub fn code_of(way: Way, frame: &[u8]) -> u16 {
    let at = header_bytes(way) - 6;
    u16::from_le_bytes([frame[at], frame[at + 1]])
}

pub fn is_data(way: Way, frame: &[u8]) -> bool {
    code_of(way, frame) == if way == Way::ToServer { DATA_TO_SERVER } else { DATA_TO_CLIENT }
}

/// A running line. It ends when it is dropped.
pub struct Line {
    pub address: String,
    _relay: Relay,
}

/// Where connections go, and how.
struct Course {
    server: SocketAddr,
    buffer_bytes: Option<usize>,
}

impl Line {
    /// A line to `server`. `harm` is asked once for each connection (counted from 0) and way.
    pub fn start(server: &str, harm: impl FnMut(usize, Way) -> Harm + Send + 'static) -> Line {
        Line::with_buffers(server, None, harm)
    }

    /// A line whose four socket buffers have `buffer_bytes`.
    pub fn with_buffers(
        server: &str,
        buffer_bytes: Option<usize>,
        mut harm: impl FnMut(usize, Way) -> Harm + Send + 'static,
    ) -> Line {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        // Accepted connections have the listener's sizes from their first segment on.
        narrow(&listener, buffer_bytes);
        let course = Course { server: server.parse().expect("the server's address"), buffer_bytes };
        let mut numbers = 0..;
        let relay = Relay::start(listener, move |client, under_way| {
            let number = numbers.next().expect("there is no last one");
            course.carry(under_way, client, harm(number, Way::ToServer), harm(number, Way::ToClient));
        });
        Line { address: relay.address.clone(), _relay: relay }
    }

    /// A line that does no harm and keeps every frame.
    pub fn recording(server: &str) -> (Line, Recording) {
        let recording = Recording::default();
        let kept = recording.clone();
        let line = Line::start(server, move |connection, way| {
            let kept = kept.clone();
            Box::new(move |frame| {
                kept.frames.lock().unwrap().push((connection, way, frame.clone()));
                Some(frame)
            })
        });
        (line, recording)
    }
}

impl Course {
    fn carry(&self, under_way: &UnderWay, client: TcpStream, to_server: Harm, to_client: Harm) {
        let Some(server) = self.connect() else { return };
        narrow(&client, self.buffer_bytes);
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let ways = [(Way::ToServer, &client, &server, to_server), (Way::ToClient, &server, &client, to_client)];
        for (way, from, to, harm) in ways {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            under_way.spawn(move || pass(way, from, to, harm));
        }
        under_way.hold([client, server]);
    }

    fn connect(&self) -> Option<TcpStream> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
        narrow(&socket, self.buffer_bytes);
        rustix::net::connect(&socket, &self.server).ok()?;
        Some(TcpStream::from(socket))
    }
}

fn narrow(socket: &impl std::os::fd::AsFd, bytes: Option<usize>) {
    if let Some(bytes) = bytes {
        sockopt::set_socket_recv_buffer_size(socket, bytes).unwrap();
        sockopt::set_socket_send_buffer_size(socket, bytes).unwrap();
    }
}

fn pass(way: Way, mut from: TcpStream, mut to: TcpStream, mut harm: Harm) {
    while let Some(frame) = read_frame(way, &mut from) {
        match harm(frame) {
            Some(bytes) if to.write_all(&bytes).is_ok() => {}
            _ => {
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                return;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The next frame, header included.
pub fn read_frame(way: Way, from: &mut TcpStream) -> Option<Vec<u8>> {
    let header = header_bytes(way);
    let mut frame = vec![0; header];
    from.read_exact(&mut frame).ok()?;
    let size = u32::from_le_bytes(frame[header - 4..].try_into().unwrap()) as usize;
    frame.resize(header + size, 0);
    from.read_exact(&mut frame[header..]).ok()?;
    Some(frame)
}

/// A frame that goes on as it is.
pub fn unharmed() -> Harm {
    Box::new(Some)
}

/// The number of its connection, its way and its bytes.
type Recorded = (usize, Way, Vec<u8>);

/// Every frame that passed: its connection, its way, its bytes.
#[derive(Clone, Default)]
pub struct Recording {
    frames: Arc<Mutex<Vec<Recorded>>>,
}

impl Recording {
    /// The frames of one connection and way, in their order.
    pub fn frames(&self, connection: usize, way: Way) -> Vec<Vec<u8>> {
        let frames = self.frames.lock().unwrap();
        let wanted = frames.iter().filter(|(number, found, _)| (*number, *found) == (connection, way));
        wanted.map(|(_, _, frame)| frame.clone()).collect()
    }

    /// Everything that could be heard, each way of each connection in one piece.
    pub fn streams(&self) -> Vec<Vec<u8>> {
        let mut streams = std::collections::BTreeMap::<(usize, bool), Vec<u8>>::new();
        for (connection, way, frame) in self.frames.lock().unwrap().iter() {
            streams.entry((*connection, *way == Way::ToServer)).or_default().extend_from_slice(frame);
        }
        streams.into_values().collect()
    }
}

/// A number without pattern for each number: harm in fixed steps could fall in step with the window.
pub fn scattered(number: usize) -> usize {
    let mut mixed = number as u32;
    for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)] {
        mixed = (mixed ^ mixed >> shift).wrapping_mul(factor);
    }
    (mixed ^ mixed >> 16) as usize
}
