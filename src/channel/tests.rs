//! Channels over connected pairs within the process, with a line between them that can do harm.

use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::sealed::{Agreement, Role};
use super::*;
use crate::base::ids::ClientId;
use crate::base::limits::CONTENT_CHUNK_BYTES;
use crate::crypto::{PrivateKey, Secret, SessionKeys};
use crate::protocol::handshake::{Refusal, RegistrationPolicy};
use crate::protocol::header::RequestHeader;
use crate::protocol::message::{ToClient, ToServer};

const TIMEOUT: Duration = Duration::from_secs(20);
const WINDOW: u32 = 512 * 1024;

fn channel(transport: Transport, role: Role, epoch: u64) -> Channel {
    let secret = |byte| Secret::from_bytes([byte; 32]);
    let epoch = NonZeroU64::new(epoch).unwrap();
    let keys = SessionKeys::derive(&[1; 32], &secret(2), &secret(3), &secret(4), epoch);
    Channel::new(transport, Agreement { role, keys, window: WINDOW, peer_window: WINDOW, timeout: TIMEOUT })
}

/// Two ends that have proved themselves to each other.
fn proven(client: Transport, server: Transport, epoch: u64) -> (Channel, Channel) {
    let (mut client, mut server) = (channel(client, Role::Client, epoch), channel(server, Role::Server, epoch));
    server.send_to_client(&ToClient::Finished).unwrap();
    server.flush().unwrap();
    client.prove_peer(TIMEOUT, 129).unwrap();
    client.send_to_server(&ToServer::Finished).unwrap();
    client.flush().unwrap();
    server.prove_peer(TIMEOUT, 1).unwrap();
    (client, server)
}

fn content(number: usize) -> Vec<u8> {
    (0..100_000).map(|index| (index * 7 + number * 13) as u8).collect()
}

/// Sends `count` contents one way and checks each on the other side, with a close at the end.
fn upload(mut client: Channel, mut server: Channel, count: usize) -> (SegmentCounts, SegmentCounts) {
    let sender = thread::spawn(move || {
        for number in 0..count {
            client.send_to_server(&ToServer::ContentData(&content(number))).unwrap();
        }
        client.close().unwrap()
    });
    for number in 0..count {
        let message = server.receive().unwrap().expect("a content");
        assert_eq!(ToServer::decode(message.kind, message.body), Ok(ToServer::ContentData(&content(number))));
    }
    assert!(server.receive().unwrap().is_none());
    let received = server.linger();
    (sender.join().unwrap(), received)
}

fn download(mut client: Channel, mut server: Channel, count: usize) -> (SegmentCounts, SegmentCounts) {
    let sender = thread::spawn(move || {
        for number in 0..count {
            server.send_to_client(&ToClient::ContentData(&content(number))).unwrap();
        }
        server.flush().unwrap();
        assert!(server.receive().unwrap().is_none());
        server.linger()
    });
    for number in 0..count {
        let message = client.receive().unwrap().expect("a content");
        assert_eq!(ToClient::decode(message.kind, message.body), Ok(ToClient::ContentData(&content(number))));
    }
    let received = client.close().unwrap();
    (sender.join().unwrap(), received)
}

/// A line between two transports that passes whole frames through `harm`: towards the server and towards
/// the client, numbered from 0. What `harm` leaves is sent on.
fn harmed_line(harm: impl Fn(bool, usize, &mut Vec<u8>) + Send + Sync + Clone + 'static) -> (Transport, Transport) {
    let (client, client_far) = UnixStream::pair().unwrap();
    let (server, server_far) = UnixStream::pair().unwrap();
    for to_server in [true, false] {
        let (from, to) = if to_server { (&client_far, &server_far) } else { (&server_far, &client_far) };
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let harm = harm.clone();
        thread::spawn(move || {
            for number in 0.. {
                let Some(mut frame) = read_frame(&mut from, to_server) else { break };
                harm(to_server, number, &mut frame);
                if to.write_all(&frame).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
    (Transport::from_unix(client), Transport::from_unix(server))
}

fn read_frame(from: &mut UnixStream, to_server: bool) -> Option<Vec<u8>> {
    let header = if to_server { 23 } else { 7 };
    let mut frame = vec![0; header];
    from.read_exact(&mut frame).ok()?;
    let size = u32::from_le_bytes(frame[header - 4..].try_into().unwrap()) as usize;
    frame.resize(header + size, 0);
    from.read_exact(&mut frame[header..]).ok()?;
    Some(frame)
}

/// A number without pattern for each number: harm in fixed steps could fall in step with the window.
fn scattered(number: usize) -> usize {
    let mut mixed = number as u32;
    for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)] {
        mixed = (mixed ^ mixed >> shift).wrapping_mul(factor);
    }
    (mixed ^ mixed >> 16) as usize
}

#[test]
fn contents_arrive_whole_and_the_close_is_known_to_both() {
    let (client, server) = Transport::pair().unwrap();
    let (client, server) = proven(client, server, 1 << 22);
    let (sent, received) = upload(client, server, 40);
    assert_eq!(sent.sent, received.received);
    assert_eq!((sent.repeated, received.damaged), (0, 0));
}

#[test]
fn keys_that_advance_every_64_segments_carry_on() {
    let (client, server) = Transport::pair().unwrap();
    let (client, server) = proven(client, server, 64);
    upload(client, server, 60);
    let (client, server) = Transport::pair().unwrap();
    let (client, server) = proven(client, server, 64);
    download(client, server, 60);
}

#[test]
fn flipped_bits_in_both_directions_are_repaired_both_ways() {
    let flip = |_: bool, number: usize, frame: &mut Vec<u8>| {
        let hash = scattered(number);
        if number > 1 && hash.is_multiple_of(29) {
            let at = 23 + hash % (frame.len() - 23);
            frame[at] ^= 1 << (number % 8);
        }
    };
    let (client, server) = harmed_line(flip);
    let (client, server) = proven(client, server, 64);
    let (sent, received) = upload(client, server, 60);
    assert!(received.damaged > 3 && sent.repeated >= received.damaged, "{sent:?} {received:?}");
    let (client, server) = harmed_line(flip);
    let (client, server) = proven(client, server, 64);
    let (sent, received) = download(client, server, 60);
    assert!(received.damaged > 3 && sent.repeated >= received.damaged, "{sent:?} {received:?}");
}

#[test]
fn a_segment_that_fails_three_times_ends_the_channel() {
    let harm = |to_server: bool, number: usize, frame: &mut Vec<u8>| {
        if to_server && number > 5 && frame[17..19] == 1042u16.to_le_bytes() {
            let last = frame.len() - 1;
            frame[last] ^= 1;
        }
    };
    let (client, server) = harmed_line(harm);
    let (mut client, mut server) = proven(client, server, 1 << 22);
    let sender = thread::spawn(move || {
        for number in 0..20 {
            if client.send_to_server(&ToServer::ContentData(&content(number))).is_err() {
                return;
            }
        }
        let _ = client.close();
    });
    let error = loop {
        match server.receive() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ChannelError::Damaged { .. }), "{error}");
    drop(server);
    sender.join().unwrap();
}

#[test]
fn a_dropped_control_segment_is_made_good() {
    // Every third control segment towards the client vanishes, and one data frame in 29 is damaged.
    let harm = |to_server: bool, number: usize, frame: &mut Vec<u8>| {
        if !to_server && number > 0 && number.is_multiple_of(3) {
            frame.clear();
        }
        if to_server && number > 1 && scattered(number).is_multiple_of(29) {
            frame[60] ^= 4;
        }
    };
    let (client, server) = harmed_line(harm);
    let (client, server) = proven(client, server, 1 << 22);
    let (_, received) = upload(client, server, 40);
    assert!(received.damaged > 0);
}

#[test]
fn buffers_of_4_kib_stop_neither_direction() {
    for way in [upload, download] {
        let (client, server) = Transport::pair().unwrap();
        client.set_buffer_bytes(4096).unwrap();
        server.set_buffer_bytes(4096).unwrap();
        let (client, server) = proven(client, server, 1 << 22);
        way(client, server, 30);
    }
}

/// Whatever the peer reads when: an answer that the worker has given out is sent to its end, without anybody's ping.
#[test]
fn an_answer_of_any_number_of_batches_goes_out_whole() {
    for count in 1..40 {
        let (client, server) = UnixStream::pair().unwrap();
        let (mut client, mut server) = proven(Transport::from_unix(client), Transport::from_unix(server), 64);
        let (ended, end) = std::sync::mpsc::channel();
        let serving = thread::spawn(move || {
            let answered = worker::answer(&mut server, |outbox| {
                let sent = (0..count)
                    .try_for_each(|_| outbox.send_to_client(&ToClient::ContentData(&[7; CONTENT_CHUNK_BYTES])));
                ended.send(()).unwrap();
                sent.is_ok()
            });
            assert_eq!(answered.unwrap(), worker::Answered { result: Some(true), has_next: false });
            server.flush().unwrap();
        });
        // Most of it waits until the worker has ended or can send no more.
        let _ = end.recv_timeout(Duration::from_millis(20));
        let began = Instant::now();
        for _ in 0..count {
            assert_eq!(client.receive().unwrap().expect("a content").body.len(), CONTENT_CHUNK_BYTES);
        }
        serving.join().unwrap();
        assert!(began.elapsed() < Channel::PING_INTERVAL, "{count} batches waited for a ping");
    }
}

#[test]
fn a_reflected_repeated_or_spliced_segment_is_never_delivered() {
    // Each data frame towards the server is followed by an older frame, sent again under its own bytes.
    let kept = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let harm = move |to_server: bool, number: usize, frame: &mut Vec<u8>| {
        let mut kept = kept.lock().unwrap();
        if to_server && number == 2 {
            *kept = frame.clone();
        }
        if to_server && number == 12 {
            frame.extend_from_slice(&kept);
        }
    };
    let (client, server) = harmed_line(harm);
    let (client, server) = proven(client, server, 1 << 22);
    let (_, received) = upload(client, server, 20);
    assert_eq!(received.damaged, 1, "the old frame was taken for damage and repaired");
}

#[test]
fn a_lost_line_is_never_an_end() {
    let (client, server) = Transport::pair().unwrap();
    let (mut client, mut server) = proven(client, server, 1 << 22);
    client.send_to_server(&ToServer::ListSnapshots).unwrap();
    client.flush().unwrap();
    drop(client);
    assert!(server.receive().unwrap().is_some());
    assert!(matches!(server.receive(), Err(ChannelError::Lost)));
}

#[test]
fn a_silent_peer_is_given_up_and_a_pinging_one_is_not() {
    let (client, server) = Transport::pair().unwrap();
    let (mut client, mut server) = proven(client, server, 1 << 22);
    server.timeout = Duration::from_millis(200);
    let pinger = thread::spawn(move || {
        for _ in 0..6 {
            client.ping().unwrap();
            thread::sleep(Duration::from_millis(400));
        }
        client.send_to_server(&ToServer::Statistics).unwrap();
        client.flush().unwrap();
        client
    });
    // The deadline of a message is the timeout and one second for its size.
    assert!(server.receive().unwrap().is_some());
    let client = pinger.join().unwrap();
    assert!(matches!(server.receive(), Err(ChannelError::TimedOut(_))));
    drop(client);
}

// ---- the handshake ----

struct Parties {
    server_key: PrivateKey,
    client_key: PrivateKey,
}

fn parties() -> Parties {
    Parties { server_key: PrivateKey::generate(1024).unwrap(), client_key: PrivateKey::generate(1024).unwrap() }
}

fn terms(key: &PrivateKey) -> Terms<'_> {
    Terms { key, window: WINDOW, segments_per_epoch: 64, timeout: TIMEOUT, policy: RegistrationPolicy::Open }
}

/// Runs a server that accepts whoever shows `expected` as its key.
fn accept(transport: Transport, parties: &Parties, token: Option<[u8; 16]>) -> Result<Channel, ChannelError> {
    let Some(FirstRequest::Native(handshake)) = FirstRequest::read(transport, TIMEOUT)? else {
        panic!("a native client was expected");
    };
    let login = handshake.answer(&terms(&parties.server_key))?.ok_or(ChannelError::Lost)?;
    let public = parties.client_key.public();
    if let Some(token) = token
        && !login.proves_token(&Secret::from_bytes(token), public.spki_der())
    {
        login.refuse(Refusal::Token);
        return Err(ChannelError::Refused(Refusal::Token));
    }
    login.agree(&parties.server_key, ClientId::from_bytes([7; 16]), public)?.confirm()
}

fn connect(
    transport: Transport,
    key: &PrivateKey,
    token: Option<[u8; 16]>,
) -> Result<(Channel, ClientId), ChannelError> {
    let (handshake, _) = ClientHandshake::begin(transport, WINDOW, TIMEOUT)?;
    let token = token.map(Secret::from_bytes);
    let name = "ada".parse().unwrap();
    let login = ClientLogin { name: &name, known: None, token: token.as_ref(), key, next_key: None, by_key: false };
    handshake.login(&login).map(|entered| (entered.channel, entered.client))
}

#[test]
fn a_handshake_gives_both_sides_the_same_channel() {
    let parties = parties();
    let (client, server) = Transport::pair().unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut channel, id) = connect(client, &parties.client_key, Some([5; 16])).unwrap();
            assert_eq!(id, ClientId::from_bytes([7; 16]));
            channel.send_to_server(&ToServer::Statistics).unwrap();
            channel.close().unwrap();
        });
        let mut server = accept(server, &parties, Some([5; 16])).unwrap();
        assert!(server.receive().unwrap().is_some());
        assert!(server.receive().unwrap().is_none());
        server.linger();
        client.join().unwrap();
    });
}

#[test]
fn a_client_without_the_private_key_is_not_confirmed() {
    let parties = parties();
    let thief = PrivateKey::generate(1024).unwrap();
    let (client, server) = Transport::pair().unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(client, &thief, None).map(|_| ()));
        let refused = accept(server, &parties, None).map(|_| ()).unwrap_err();
        assert!(matches!(refused, ChannelError::Lost | ChannelError::Unproven), "{refused}");
        assert!(client.join().unwrap().is_err());
    });
}

#[test]
fn a_wrong_token_is_refused_and_says_so() {
    let parties = parties();
    let (client, server) = Transport::pair().unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(|| connect(client, &parties.client_key, Some([6; 16])).map(|_| ()));
        assert!(accept(server, &parties, Some([5; 16])).is_err());
        let error = client.join().unwrap().unwrap_err();
        assert!(matches!(error, ChannelError::Refused(Refusal::Token)), "{error}");
    });
}

#[test]
fn a_changed_byte_of_any_handshake_message_ends_it() {
    let parties = parties();
    // Message 1 and 3 towards the server, 2 and 4 towards the client; one byte of each in turn.
    for (to_server, number, at) in [(true, 0, 30), (true, 1, 60), (false, 0, 340), (false, 1, 60), (false, 1, 20)] {
        let (client, server) = harmed_line(move |direction, frame_number, frame: &mut Vec<u8>| {
            if direction == to_server && frame_number == number {
                let at = at.min(frame.len() - 1);
                frame[at] ^= 1;
            }
        });
        thread::scope(|scope| {
            let client = scope.spawn(|| connect(client, &parties.client_key, None).map(|_| ()));
            let server = accept(server, &parties, None).map(|_| ());
            let client = client.join().unwrap();
            assert!(server.is_err(), "message {number}, towards the server: {to_server}");
            assert!(client.is_err() || server.is_err());
        });
    }
}

#[test]
fn what_this_port_does_not_speak_is_recognised() {
    let first = |bytes: Vec<u8>| {
        let (near, far) = UnixStream::pair().unwrap();
        (&near).write_all(&bytes).unwrap();
        drop(near);
        FirstRequest::read(Transport::from_unix(far), TIMEOUT)
    };
    let header = |version: u8, code: u16, size: u32| {
        [&[0; 16][..], &[version], &code.to_le_bytes(), &size.to_le_bytes()].concat()
    };
    assert!(matches!(first(Vec::new()), Ok(None)));
    assert!(matches!(first(vec![0; 5]), Err(ChannelError::Lost)));
    assert!(matches!(
        first(header(3, 1025, 255)),
        Ok(Some(FirstRequest::Legacy { header: RequestHeader { code: 1025, .. }, .. }))
    ));
    assert!(matches!(
        first(header(2, 1027, 255)),
        Ok(Some(FirstRequest::Legacy { header: RequestHeader { code: 1027, .. }, .. }))
    ));
    assert!(matches!(first(header(9, 1025, 255)), Ok(Some(FirstRequest::Unknown { .. }))));
    assert!(matches!(first(header(3, 1040, u32::MAX)), Ok(Some(FirstRequest::Unknown { .. }))));
    assert!(matches!(first(header(3, 4711, 0)), Ok(Some(FirstRequest::Unknown { .. }))));
}
