//! A legacy server, written from the description of the dialect alone, with `openssl` and `cksum` in place of
//! any code of this program. It keeps what it gets, writes down what it was asked, and misbehaves where a test wants.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

const NAME_BYTES: usize = 255;

/// What kind of server it is, and what goes wrong at it.
#[derive(Debug, Clone)]
pub struct Manners {
    /// `sha256` in the present generation, `sha1` in the older one.
    pub oaep: &'static str,
    pub greets: bool,
    /// The version byte of its answers.
    pub version: u8,
    /// So many checksums are told wrong.
    pub wrong_checksums: u32,
    /// More ciphertext than this in one file is refused: with 1607, or just by the end of the connection.
    pub file_limit: Option<u64>,
    pub refuses_silently: bool,
    /// So many connections end after their first packet.
    pub lost_connections: u32,
    /// Files of this name get 1607.
    pub refused_file: &'static str,
    /// Wait for [`Counterpart::go_on`] after the first packet of all.
    pub waits_once: bool,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            oaep: "sha256",
            greets: false,
            version: 3,
            wrong_checksums: 0,
            file_limit: None,
            refuses_silently: false,
            lost_connections: 0,
            refused_file: "",
            waits_once: false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct KnownClient {
    pub id: [u8; 16],
    pub public_key: Option<Vec<u8>>,
}

#[derive(Default)]
struct Shared {
    clients: HashMap<String, KnownClient>,
    /// What was asked, in order: the code, and the file where there is one.
    asked: Vec<String>,
    /// Packets of each file that was received, as its last transfer came.
    packets: HashMap<String, (u16, u32)>,
    /// What no client of the dialect does.
    faults: Vec<String>,
    wrong_checksums: u32,
    lost_connections: u32,
    is_waiting: bool,
}

pub struct Counterpart {
    pub address: String,
    folder: tempfile::TempDir,
    shared: Arc<Mutex<Shared>>,
    go_on: Sender<()>,
}

impl Counterpart {
    pub fn start(manners: Manners) -> Counterpart {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shared = Arc::new(Mutex::new(Shared {
            wrong_checksums: manners.wrong_checksums,
            lost_connections: manners.lost_connections,
            is_waiting: manners.waits_once,
            ..Shared::default()
        }));
        let (go_on, gate) = channel();
        let gate = Arc::new(Mutex::new(gate));
        let (for_accept, path) = (shared.clone(), folder.path().to_path_buf());
        // It ends with the process of the tests.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let peer = Peer {
                    stream,
                    manners: manners.clone(),
                    shared: for_accept.clone(),
                    gate: gate.clone(),
                    folder: path.clone(),
                    key: None,
                    transfer: None,
                };
                thread::spawn(move || peer.serve());
            }
        });
        Counterpart { address, folder, shared, go_on }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// What it was asked, with runs of packets of one file as one.
    pub fn asked(&self) -> Vec<String> {
        let mut asked = self.shared().asked.clone();
        asked.dedup();
        asked
    }

    /// How often a packet came that was the first of its file.
    pub fn first_packets(&self) -> usize {
        self.shared().asked.iter().filter(|line| line.starts_with("first packet")).count()
    }

    /// The number of packets that a file came in, and the size of the first one.
    pub fn packets(&self, file: &str) -> (u16, u32) {
        self.shared().packets[file]
    }

    pub fn client(&self, name: &str) -> Option<KnownClient> {
        self.shared().clients.get(name).cloned()
    }

    pub fn know(&self, name: &str, client: KnownClient) {
        self.shared().clients.insert(name.to_string(), client);
    }

    pub fn forget(&self, name: &str) {
        self.shared().clients.remove(name);
    }

    /// The names of the files that were confirmed.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> =
            names.filter_map(|name| name.strip_prefix("done ").map(str::to_string)).collect();
        names.sort();
        names
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("done {name}"))
    }

    #[track_caller]
    pub fn assert_has(&self, name: &str, content: &[u8]) {
        let kept = std::fs::read(self.file(name)).unwrap_or_else(|_| panic!("no {name:?}: {:?}", self.files()));
        assert!(kept == content, "{name}: {} bytes, not {}", kept.len(), content.len());
    }

    /// Lets a server that waits after the first packet go on.
    pub fn go_on(&self) {
        self.go_on.send(()).expect("it waits");
    }

    #[track_caller]
    pub fn assert_no_faults(&self) {
        assert_eq!(self.shared().faults, Vec::<String>::new());
    }
}

struct Transfer {
    name: String,
    total: u16,
    original_bytes: u32,
    next: u16,
    ciphertext_bytes: u64,
    first_bytes: u32,
}

struct Peer {
    stream: TcpStream,
    manners: Manners,
    shared: Arc<Mutex<Shared>>,
    gate: Arc<Mutex<Receiver<()>>>,
    folder: PathBuf,
    key: Option<[u8; 32]>,
    transfer: Option<Transfer>,
}

/// Whether the connection goes on.
type Goes = Option<()>;

impl Peer {
    fn serve(mut self) {
        if self.manners.greets {
            self.answer(0, &[]);
        }
        while self.request().is_some() {}
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    fn read<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    fn answer(&mut self, code: u16, payload: &[u8]) -> Goes {
        let mut message = vec![self.manners.version];
        message.extend(code.to_le_bytes());
        message.extend((payload.len() as u32).to_le_bytes());
        message.extend(payload);
        self.stream.write_all(&message).ok()
    }

    /// 1607 and the end, for what no client does.
    fn fault(&mut self, what: String) -> Goes {
        self.shared().faults.push(what);
        self.answer(1607, &[]);
        None
    }

    fn request(&mut self) -> Goes {
        let header: [u8; 23] = self.read()?;
        let id: [u8; 16] = header[..16].try_into().unwrap();
        let (version, code) = (header[16], u16::from_le_bytes([header[17], header[18]]));
        let payload_bytes = u32::from_le_bytes(header[19..].try_into().unwrap());
        if version != 3 || payload_bytes > 16 * 1024 * 1024 + 1_024 {
            return self.fault(format!("version {version}, {payload_bytes} bytes"));
        }
        if code == 1028 {
            return self.packet(id, payload_bytes);
        }
        let wanted = if code == 1026 { 415..=417 } else { 255..=255 };
        if !wanted.contains(&payload_bytes) {
            return self.fault(format!("{payload_bytes} bytes with {code}"));
        }
        let name = self.name()?;
        let mut public_key = vec![0; payload_bytes as usize - NAME_BYTES];
        self.stream.read_exact(&mut public_key).ok()?;
        match code {
            1025 => self.register(&name),
            1026 => self.take_key(id, &name, public_key),
            1027 => self.reconnect(id, &name),
            1029..=1031 => self.verdict(code, id, &name),
            code => self.fault(format!("code {code}")),
        }
    }

    /// A field: text, a NUL, and nothing but zeros behind it.
    fn name(&mut self) -> Option<String> {
        let field: [u8; NAME_BYTES] = self.read()?;
        let end = field.iter().position(|byte| *byte == 0)?;
        let is_clean = field[end..].iter().all(|byte| *byte == 0);
        let name = String::from_utf8_lossy(&field[..end]).into_owned();
        if !is_clean || name.is_empty() {
            self.fault(format!("a field of {name:?}"));
            return None;
        }
        Some(name)
    }

    fn register(&mut self, name: &str) -> Goes {
        let is_taken = {
            let mut shared = self.shared();
            shared.asked.push(format!("register {name}"));
            shared.clients.contains_key(name)
        };
        if is_taken {
            return self.answer(1601, &[]);
        }
        let id = random();
        self.shared().clients.insert(name.to_string(), KnownClient { id, public_key: None });
        self.answer(1600, &id)
    }

    fn take_key(&mut self, id: [u8; 16], name: &str, public_key: Vec<u8>) -> Goes {
        let is_known = {
            let mut shared = self.shared();
            shared.asked.push(format!("key {name}"));
            let client = shared.clients.get_mut(name).filter(|client| client.id == id);
            client.map(|client| client.public_key = Some(public_key)).is_some()
        };
        match is_known {
            true => self.give_key(1602, id, name),
            false => self.fault(format!("a key for {name}")),
        }
    }

    fn reconnect(&mut self, id: [u8; 16], name: &str) -> Goes {
        let is_known = {
            let mut shared = self.shared();
            shared.asked.push(format!("reconnect {name}"));
            shared.clients.get(name).is_some_and(|client| client.id == id && client.public_key.is_some())
        };
        match is_known {
            true => self.give_key(1605, id, name),
            false => self.answer(1606, &id),
        }
    }

    fn give_key(&mut self, code: u16, id: [u8; 16], name: &str) -> Goes {
        let public_key = self.shared().clients[name].public_key.clone()?;
        let key: [u8; 32] = random();
        let wrapped = wrap(&self.folder, self.manners.oaep, &public_key, &key);
        self.key = Some(key);
        self.answer(code, &[&id[..], &wrapped].concat())
    }

    fn packet(&mut self, id: [u8; 16], payload_bytes: u32) -> Goes {
        let fixed: [u8; 12] = self.read()?;
        let number_at = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap());
        let (content_bytes, original_bytes) = (number_at(0), number_at(4));
        let (number, total) =
            (u16::from_le_bytes([fixed[8], fixed[9]]), u16::from_le_bytes([fixed[10], fixed[11]]));
        let name = self.name()?;
        if content_bytes + 267 != payload_bytes || self.key.is_none() || name.len() > 250 {
            return self.fault(format!("a packet of {name}: {content_bytes} of {payload_bytes} bytes"));
        }
        if number == 1 {
            let (first_bytes, next, ciphertext_bytes) = (content_bytes, 1, 0);
            File::create(self.ciphertext()).unwrap();
            self.shared().asked.push(format!("first packet of {name}"));
            self.transfer = Some(Transfer { name, total, original_bytes, next, ciphertext_bytes, first_bytes });
        } else {
            let is_next = self.transfer.as_ref().is_some_and(|transfer| {
                (transfer.name == name)
                    && (transfer.next, transfer.total, transfer.original_bytes) == (number, total, original_bytes)
            });
            if !is_next {
                return self.fault(format!("packet {number} of {total} of {name}"));
            }
        }
        self.take_content(content_bytes)?;
        self.after_packet(id, number)
    }

    fn ciphertext(&self) -> PathBuf {
        self.folder.join(format!("ciphertext {}", self.stream.peer_addr().unwrap().port()))
    }

    fn take_content(&mut self, content_bytes: u32) -> Goes {
        let mut out = OpenOptions::new().append(true).open(self.ciphertext()).unwrap();
        let copied = std::io::copy(&mut Read::take(&self.stream, content_bytes.into()), &mut out).ok()?;
        let transfer = self.transfer.as_mut()?;
        transfer.next += 1;
        transfer.ciphertext_bytes += copied;
        (copied == u64::from(content_bytes)).then_some(())
    }

    fn after_packet(&mut self, id: [u8; 16], number: u16) -> Goes {
        let must_wait = std::mem::take(&mut self.shared().is_waiting);
        if must_wait {
            self.gate.lock().unwrap().recv().ok()?;
        }
        let lost = {
            let mut shared = self.shared();
            let lost = shared.lost_connections > 0;
            shared.lost_connections = shared.lost_connections.saturating_sub(1);
            lost
        };
        if lost {
            return None;
        }
        let transfer = self.transfer.as_ref()?;
        let is_too_long = self.manners.file_limit.is_some_and(|limit| transfer.ciphertext_bytes > limit);
        if is_too_long || transfer.name == self.manners.refused_file {
            if !self.manners.refuses_silently {
                self.answer(1607, &[]);
            }
            return None;
        }
        if number == transfer.total { self.received(id) } else { Some(()) }
    }

    /// All packets are in: decrypts, sums and answers.
    fn received(&mut self, id: [u8; 16]) -> Goes {
        let (key, ciphertext) = (self.key?, self.ciphertext());
        let transfer = self.transfer.as_ref()?;
        let (name, original_bytes) = (transfer.name.clone(), transfer.original_bytes);
        let (total, first_bytes, bytes) = (transfer.total, transfer.first_bytes, transfer.ciphertext_bytes);
        let plaintext = self.folder.join(format!("new {name}"));
        let mut openssl = Command::new("openssl");
        openssl.args(["enc", "-d", "-aes-256-cbc", "-K", &hex(&key), "-iv", &"0".repeat(32)]);
        let status =
            openssl.arg("-in").arg(&ciphertext).arg("-out").arg(&plaintext).status().expect("openssl runs");
        let found_bytes = std::fs::metadata(&plaintext).map_or(0, |metadata| metadata.len());
        if !status.success() || found_bytes != u64::from(original_bytes) {
            return self.fault(format!("{name} decrypts to {found_bytes} bytes, not {original_bytes}: {status}"));
        }
        let mut checksum = cksum(&plaintext);
        {
            let mut shared = self.shared();
            shared.packets.insert(name.clone(), (total, first_bytes));
            if shared.wrong_checksums > 0 {
                shared.wrong_checksums -= 1;
                checksum ^= 1;
            }
        }
        let bytes = u32::try_from(bytes).unwrap();
        let payload = [&id[..], &bytes.to_le_bytes(), &field(&name), &checksum.to_le_bytes()].concat();
        assert_eq!(payload.len(), 279);
        self.answer(1603, &payload)
    }

    fn verdict(&mut self, code: u16, id: [u8; 16], name: &str) -> Goes {
        self.shared().asked.push(format!("{code} {name}"));
        let is_last = self.transfer.as_ref().is_some_and(|transfer| transfer.name == name);
        let new = self.folder.join(format!("new {name}"));
        if !is_last || !new.exists() {
            return self.fault(format!("{code} for {name}, which did not arrive"));
        }
        match code {
            1029 => std::fs::rename(&new, self.folder.join(format!("done {name}"))).unwrap(),
            _ => std::fs::remove_file(&new).unwrap(),
        }
        self.answer(1604, &id)
    }
}

fn field(name: &str) -> [u8; NAME_BYTES] {
    let mut field = [0; NAME_BYTES];
    field[..name.len()].copy_from_slice(name.as_bytes());
    field
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("random bytes");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RSA-OAEP by openssl.
fn wrap(folder: &Path, hash: &str, public_key: &[u8], key: &[u8]) -> Vec<u8> {
    let file = folder.join(format!("public key {}", hex(&random::<8>())));
    std::fs::write(&file, public_key).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"]).arg(&file);
    openssl.args(["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &format!("rsa_oaep_md:{hash}")]);
    let mut child = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("openssl runs");
    child.stdin.take().unwrap().write_all(key).unwrap();
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(output.stdout.len(), 128, "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The checksum by the program of that name.
fn cksum(file: &Path) -> u32 {
    let output = Command::new("cksum").arg(file).output().expect("cksum runs");
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().parse().unwrap()
}
