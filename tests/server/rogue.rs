//! Clients that do not behave. A [`Guest`] goes through a true handshake and then says whatever a test
//! wants; a [`Peer`] seals its segments itself, so that it can break the channel's own rules too.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::time::Duration;

use cyberbackup::base::entry::{Entry, EntryKind};
use cyberbackup::base::ids::UploadId;
use cyberbackup::base::path::EntryPath;
use cyberbackup::base::time::Timestamp;
use cyberbackup::channel::{Channel, ChannelError, ClientHandshake, ClientLogin, Transport, worker};
use cyberbackup::crypto::{
    ContentSums, Direction, Ephemeral, Kind, OaepLabel, Opener, PrivateKey, PublicKey, Sealer, Secret, SessionKeys,
    Transcript, blake3_hash, random_bytes, sealed_payload_bytes,
};
use cyberbackup::protocol::control::Control;
use cyberbackup::protocol::handshake::{Claim, ClientHello, Login, LoginAnswer, ServerHello, feature};
use cyberbackup::protocol::header::{RequestHeader, ResponseHeader, code};
use cyberbackup::protocol::message::{Begin, ContentEnd, FailureCode, SnapshotRow, ToClient, ToServer};

/// Long enough for any answer, short enough for a test.
pub const PATIENCE: Duration = Duration::from_secs(30);
const WINDOW: u32 = 512 * 1024;

/// A small key: these tests make many.
pub fn small_key() -> PrivateKey {
    PrivateKey::generate(1024).expect("a key can be made")
}

/// A raw connection that fails a read rather than hang.
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// A client with a true session and no manners.
pub struct Guest {
    pub channel: Channel,
}

impl Guest {
    /// Logs in, registering where the name is new.
    pub fn enter(address: &str, name: &str, key: &PrivateKey) -> Guest {
        Guest::try_enter(address, name, key).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn try_enter(address: &str, name: &str, key: &PrivateKey) -> Result<Guest, ChannelError> {
        let transport = Transport::tcp(TcpStream::connect(address)?)?;
        let (handshake, _) = ClientHandshake::begin(transport, WINDOW, PATIENCE)?;
        let name = name.parse().expect("a user name");
        let login = ClientLogin { name: &name, known: None, token: None, key, next_key: None, by_key: false };
        let mut channel = handshake.login(&login)?.channel;
        channel.push()?;
        let mut guest = Guest { channel };
        let (kind, body) = guest.hear()?;
        match ToClient::decode(kind, &body)? {
            ToClient::Welcome => Ok(guest),
            ToClient::Busy { seconds } => Err(ChannelError::Busy { seconds }),
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// Sends encoded messages, or anything else, as the stream of messages.
    pub fn say_bytes(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.channel.send_encoded(bytes)?;
        self.channel.push()
    }

    #[track_caller]
    pub fn say(&mut self, message: &ToServer<'_>) {
        self.say_bytes(&encoded(message)).unwrap_or_else(|error| panic!("{message:?}: {error}"));
    }

    /// The next message, as kind and body.
    pub fn hear(&mut self) -> Result<(u8, Vec<u8>), ChannelError> {
        match self.channel.receive()? {
            Some(message) => Ok((message.kind, message.body.to_vec())),
            None => Err(ChannelError::Lost),
        }
    }

    /// Hears the next message and gives it to `take`.
    #[track_caller]
    pub fn expect<T>(&mut self, take: impl FnOnce(&ToClient<'_>) -> Option<T>) -> T {
        let (kind, body) = self.hear().unwrap_or_else(|error| panic!("no answer: {error}"));
        let message = ToClient::decode(kind, &body).expect("the server's messages make sense");
        take(&message).unwrap_or_else(|| panic!("not the wanted answer: {message:?}"))
    }

    /// Begins an upload of these roots and waits until it is open.
    #[track_caller]
    pub fn begin(&mut self, roots: &[&str]) {
        self.say(&begin(roots));
        self.expect(|message| matches!(message, ToClient::Begun { .. }).then_some(()));
    }

    /// Offers a range and sends its entries; waits for what is needed of it.
    #[track_caller]
    pub fn range(&mut self, number: u32, entries: &[u8]) -> Vec<u8> {
        self.say(&ToServer::RangeOffer { hash: blake3_hash(entries) });
        self.expect(|message| (*message == ToClient::RangeLacking { number }).then_some(()));
        self.say(&ToServer::RangeEntries { number, entries });
        self.expect(|message| match message {
            ToClient::Needed { number: found, bits, .. } if *found == number => Some(bits.to_vec()),
            _ => None,
        })
    }

    pub fn content(&mut self, range: u32, entry: u32, bytes: &[u8]) {
        self.say(&ToServer::ContentStart { range, entry });
        bytes.chunks(128 * 1024).for_each(|chunk| self.say(&ToServer::ContentData(chunk)));
        self.say(&ToServer::ContentEnd(sums(bytes)));
    }

    #[track_caller]
    pub fn commit(&mut self, ranges: u32, entries: u64) -> SnapshotRow {
        self.say(&ToServer::Commit { ranges, entries, unreadable: 0 });
        self.expect(|message| match message {
            ToClient::Stored(row) => Some(row.clone()),
            _ => None,
        })
    }

    /// Everything until the connection ends must be answers to what was in order, then one failure with
    /// this code; then the server is gone.
    #[track_caller]
    pub fn expect_failure(mut self, code: FailureCode) -> String {
        let text = loop {
            let (kind, body) = self.hear().unwrap_or_else(|error| panic!("no failure was told: {error}"));
            match ToClient::decode(kind, &body).expect("the server's messages make sense") {
                ToClient::Failure { code: found, text } => {
                    assert_eq!(found, code, "{text}");
                    break text;
                }
                ToClient::Stored(row) => panic!("stored: {row:?}"),
                _ => {}
            }
        };
        assert!(self.hear().is_err(), "the session goes on after {text:?}");
        text
    }

    /// How many snapshots this client has.
    pub fn snapshots(&mut self) -> u64 {
        self.say(&ToServer::ListSnapshots);
        loop {
            let rows = self.expect(|message| match message {
                ToClient::Snapshot(_) => Some(None),
                ToClient::End { rows } => Some(Some(*rows)),
                _ => None,
            });
            if let Some(rows) = rows {
                return rows;
            }
        }
    }
}

pub fn encoded(message: &ToServer<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// A message of any kind with any body.
pub fn raw_message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body").to_le_bytes();
    [&[kind][..], &length, body].concat()
}

pub fn begin(roots: &[&str]) -> ToServer<'static> {
    ToServer::Begin(Begin {
        upload: UploadId::random(),
        started: Timestamp::now(),
        flags: 0,
        parent: None,
        host: "rogue".into(),
        label: String::new(),
        tags: Vec::new(),
        roots: roots.iter().map(|root| path(root)).collect(),
    })
}

pub fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).expect("a path")
}

pub fn entry(kind: EntryKind, text: &str, size: u64) -> Entry {
    let time = Timestamp { seconds: 1_000_000, nanoseconds: 0 };
    Entry {
        path: path(text),
        kind,
        size,
        mtime: time,
        ctime: time,
        inode: 1,
        mode: 0o755,
        owner: 0,
        group: 0,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        link_target: Vec::new(),
        hard_link: None,
        fields: Vec::new(),
    }
}

pub fn file(text: &str, size: u64) -> Entry {
    entry(EntryKind::File, text, size)
}

pub fn folder(text: &str) -> Entry {
    entry(EntryKind::Folder, text, 0)
}

pub fn link(text: &str, target: &[u8]) -> Entry {
    Entry { link_target: target.to_vec(), ..entry(EntryKind::Link, text, 0) }
}

pub fn entries(list: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    list.iter().for_each(|entry| entry.encode(&mut bytes));
    bytes
}

/// Replaces the one place of `from` in encoded bytes; both are of one length, so that all counts still fit.
pub fn forged(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("what is to be forged is there");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

pub fn sums(bytes: &[u8]) -> ContentEnd {
    let sums = ContentSums::of(bytes);
    ContentEnd { bytes: sums.size, crc32: sums.crc32, blake3: sums.blake3, flags: 0 }
}

// ---- a peer that seals by itself ----

/// A client made of nothing but keys and a socket.
pub struct Peer {
    pub stream: TcpStream,
    data: Sealer,
    control: Sealer,
    opener: Opener,
    /// The server's frames so far, as they came.
    pub heard: Vec<Vec<u8>>,
}

/// How much a frame of the server has before its payload, and one of ours.
const RESPONSE_HEADER_BYTES: usize = 7;
const REQUEST_HEADER_BYTES: usize = 23;

impl Peer {
    /// Messages 1 to 4 and the server's proof; the own proof is left to the test.
    pub fn before_proof(address: &str, name: &str, key: &PrivateKey) -> Peer {
        let mut stream = connect(address);
        let mut transcript = Transcript::new();
        let ephemeral = Ephemeral::random();
        let (random, public) = (random_bytes(), ephemeral.public());
        let hello = ClientHello { features: vec![feature::BASE], random, ephemeral: public, window: WINDOW };
        send(&mut stream, &mut transcript, code::CLIENT_HELLO, &hello.encode());
        let hello = ServerHello::decode(&receive(&mut stream, &mut transcript, code::SERVER_HELLO)).unwrap();
        let server_key = PublicKey::from_spki_der(&hello.public_key).unwrap();
        let client_secret = Secret::random();
        let login = Login {
            name: name.parse().unwrap(),
            claim: Claim::Register(key.public().spki_der().to_vec()),
            token_proof: None,
            sealed_secret: server_key.seal_secret(OaepLabel::ClientToServer, &client_secret).unwrap(),
        };
        send(&mut stream, &mut transcript, code::LOGIN, &login.encode());
        let answer = LoginAnswer::decode(&receive(&mut stream, &mut transcript, code::LOGIN_ANSWER)).unwrap();
        let server_secret = key.open_secret(OaepLabel::ServerToClient, &answer.sealed_secret);
        let agreement = ephemeral.agree(&hello.ephemeral).unwrap();
        let epoch = NonZeroU64::new(hello.segments_per_epoch).unwrap();
        let keys = SessionKeys::derive(&transcript.hash(), &client_secret, &server_secret, &agreement, epoch);
        let (up, down) = (keys.client_to_server, keys.server_to_client);
        let sealer = |kind, chain| Sealer::new(Direction::ClientToServer, kind, chain, REQUEST_HEADER_BYTES);
        let mut peer = Peer {
            stream,
            data: sealer(Kind::Data, up.data),
            control: sealer(Kind::Control, up.control),
            opener: Opener::new(Direction::ServerToClient, Kind::Data, down.data, RESPONSE_HEADER_BYTES),
            heard: Vec::new(),
        };
        let proof = peer.read_frame().expect("the server proves itself");
        peer.heard.push(proof);
        peer
    }

    /// A peer with a whole session.
    pub fn enter(address: &str, name: &str, key: &PrivateKey) -> Peer {
        let mut peer = Peer::before_proof(address, name, key);
        let frame = peer.data_frame(&encoded(&ToServer::Finished), 0);
        peer.write(&frame).expect("the server takes the proof");
        peer
    }

    pub fn data_frame(&mut self, plaintext: &[u8], acknowledged: u64) -> Vec<u8> {
        seal(&mut self.data, code::REQUEST_DATA, plaintext, acknowledged)
    }

    pub fn control_frame(&mut self, control: Control, acknowledged: u64) -> Vec<u8> {
        let mut plaintext = Vec::new();
        control.encode(&mut plaintext);
        seal(&mut self.control, code::REQUEST_CONTROL, &plaintext, acknowledged)
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn read_frame(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; RESPONSE_HEADER_BYTES];
        self.stream.read_exact(&mut frame).ok()?;
        let header = ResponseHeader::decode(frame[..].try_into().unwrap());
        frame.resize(RESPONSE_HEADER_BYTES + header.payload_bytes as usize, 0);
        self.stream.read_exact(&mut frame[RESPONSE_HEADER_BYTES..]).ok()?;
        Some(frame)
    }

    /// Reads until the server ends the connection; gives the messages it said, decoded to text, each once.
    /// The patience of the socket bounds it: a server that does not end it fails the test.
    #[track_caller]
    pub fn read_to_end(mut self) -> Vec<String> {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut frames = std::mem::take(&mut self.heard);
        let mut header = [0; RESPONSE_HEADER_BYTES];
        loop {
            match self.stream.read(&mut header[..1]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the server does not end the connection: {error}"),
            }
            if self.stream.read_exact(&mut header[1..]).is_err() {
                break;
            }
            let size = ResponseHeader::decode(&header).payload_bytes as usize;
            let mut frame = [&header[..], &vec![0; size]].concat();
            if self.stream.read_exact(&mut frame[RESPONSE_HEADER_BYTES..]).is_err() {
                break;
            }
            frames.push(frame);
        }
        let mut stream = Vec::new();
        for mut frame in frames {
            let (mut opened, whole) = (Vec::new(), 0..frame.len());
            // Control segments and repeats do not open as the next data segment, and are passed over.
            if self.opener.open_batch(&mut frame, &[whole], &mut opened).is_ok() {
                stream.extend_from_slice(&frame[opened[0].plaintext.clone()]);
            }
        }
        let said = |(kind, body)| format!("{:?}", ToClient::decode(kind, body).expect("a message"));
        worker::messages(&stream).map(said).collect()
    }
}

fn seal(sealer: &mut Sealer, code: u16, plaintext: &[u8], acknowledged: u64) -> Vec<u8> {
    let payload = sealed_payload_bytes(plaintext.len());
    let mut frame = Vec::new();
    RequestHeader::native(code, payload).encode(&mut frame);
    frame.resize(REQUEST_HEADER_BYTES + 32, 0);
    frame.extend_from_slice(plaintext);
    frame.resize(REQUEST_HEADER_BYTES + payload, 0);
    sealer.seal_batch(&mut frame, &[plaintext.len()], acknowledged).expect("the frame is laid out right");
    frame
}

fn send(stream: &mut TcpStream, transcript: &mut Transcript, code: u16, payload: &[u8]) {
    let mut bytes = Vec::new();
    RequestHeader::native(code, payload.len()).encode(&mut bytes);
    bytes.extend_from_slice(payload);
    transcript.add(&bytes);
    stream.write_all(&bytes).expect("the server takes the handshake");
}

fn receive(stream: &mut TcpStream, transcript: &mut Transcript, wanted: u16) -> Vec<u8> {
    let mut bytes = vec![0; RESPONSE_HEADER_BYTES];
    stream.read_exact(&mut bytes).expect("the server answers the handshake");
    let header = ResponseHeader::decode(bytes[..].try_into().unwrap());
    assert_eq!(header.code, wanted);
    bytes.resize(RESPONSE_HEADER_BYTES + header.payload_bytes as usize, 0);
    stream.read_exact(&mut bytes[RESPONSE_HEADER_BYTES..]).expect("the server answers the handshake");
    transcript.add(&bytes);
    bytes.split_off(RESPONSE_HEADER_BYTES)
}
