//! A legacy client, written from the description of its dialect: requests as bytes, keys and ciphertext from
//! `openssl`, checksums from `cksum`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::server::rogue::connect;
use crate::support::{TestServer, Workplace};

/// Most packets of a file.
const PACKETS_MAX: u64 = 65_535;

/// A client's pair of 1,024 bits.
pub struct Key {
    folder: tempfile::TempDir,
    /// SubjectPublicKeyInfo, DER.
    pub public: Vec<u8>,
}

impl Key {
    pub fn make(exponent: u32) -> Key {
        let folder = tempfile::tempdir().unwrap();
        let (pem, private) = (folder.path().join("pem"), folder.path().join("private"));
        let (pem, private) = (pem.to_str().unwrap(), private.to_str().unwrap());
        let exponent = format!("rsa_keygen_pubexp:{exponent}");
        let mut words = vec!["genpkey", "-algorithm", "RSA", "-out", pem];
        words.extend(["-pkeyopt", "rsa_keygen_bits:1024", "-pkeyopt", &exponent]);
        openssl(&words);
        openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", pem, "-outform", "DER", "-out", private]);
        let public = openssl(&["pkey", "-in", pem, "-pubout", "-outform", "DER"]);
        Key { folder, public }
    }

    /// PKCS#8, DER.
    pub fn private(&self) -> PathBuf {
        self.folder.path().join("private")
    }

    /// Unwraps a key for files that was wrapped with this hash.
    pub fn unwrap(&self, hash: &str, wrapped: &[u8]) -> Option<[u8; 32]> {
        let file = self.folder.path().join("wrapped");
        std::fs::write(&file, wrapped).unwrap();
        let hash = format!("rsa_oaep_md:{hash}");
        let output = Command::new("openssl")
            .args(["pkeyutl", "-decrypt", "-keyform", "DER", "-inkey"])
            .arg(self.private())
            .args(["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", &hash, "-in"])
            .arg(file)
            .output()
            .expect("openssl can be run");
        output.status.success().then(|| output.stdout.try_into().expect("a key of 32 bytes"))
    }
}

fn openssl(words: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(words).output().expect("openssl can be run");
    assert!(output.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What `cksum` prints for a file.
pub fn cksum(file: &Path) -> u32 {
    let output = Command::new("cksum").stdin(File::open(file).unwrap()).output().expect("cksum can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

/// A name in its field.
pub fn field(name: &[u8]) -> [u8; 255] {
    let mut field = [0; 255];
    field[..name.len()].copy_from_slice(name);
    field
}

/// An answer: its code and its payload.
pub type Answer = (u16, Vec<u8>);

pub const GENERAL_ERROR: u16 = 1607;

/// A file with its ciphertext under a session's key.
pub struct Encrypted {
    pub file: PathBuf,
    pub original_bytes: u32,
    pub checksum: u32,
    ciphertext: File,
    pub ciphertext_bytes: u64,
}

impl Encrypted {
    /// Encrypts a file with `openssl`, beside it.
    pub fn of(file: &Path, file_key: &[u8; 32]) -> Encrypted {
        let key: String = file_key.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = file.with_extension(&key[..16]);
        let (input, output) = (file.to_str().unwrap(), path.to_str().unwrap());
        openssl(&["enc", "-aes-256-cbc", "-K", &key, "-iv", &"0".repeat(32), "-in", input, "-out", output]);
        let ciphertext = File::open(&path).unwrap();
        let ciphertext_bytes = ciphertext.metadata().unwrap().len();
        let original_bytes = u32::try_from(std::fs::metadata(file).unwrap().len()).unwrap();
        Encrypted { file: file.into(), original_bytes, checksum: cksum(file), ciphertext, ciphertext_bytes }
    }

    /// How many packets of this size it takes.
    pub fn packets(&self, packet_bytes: u64) -> u16 {
        let packets = self.ciphertext_bytes.div_ceil(packet_bytes);
        assert!(packets <= PACKETS_MAX, "{packets} packets");
        packets as u16
    }

    /// The ciphertext of packet `number`.
    pub fn part(&self, number: u16, packet_bytes: u64) -> Vec<u8> {
        let start = u64::from(number - 1) * packet_bytes;
        let mut part = vec![0; packet_bytes.min(self.ciphertext_bytes - start) as usize];
        self.ciphertext.read_exact_at(&mut part, start).unwrap();
        part
    }
}

/// A connection of a legacy client.
pub struct Peer {
    pub stream: TcpStream,
    pub id: [u8; 16],
    pub version: u8,
}

impl Peer {
    pub fn connect(server: &TestServer) -> Peer {
        Peer { stream: connect(&server.address), id: [0; 16], version: 3 }
    }

    /// Registers and exchanges keys; gives the key for files.
    #[track_caller]
    pub fn enter(server: &TestServer, name: &str, key: &Key) -> (Peer, [u8; 32]) {
        let mut peer = Peer::connect(server);
        peer.register(name);
        let file_key = peer.send_key(name, key);
        (peer, file_key)
    }

    /// Comes back under an id.
    #[track_caller]
    pub fn reenter(server: &TestServer, name: &str, id: [u8; 16], key: &Key) -> (Peer, [u8; 32]) {
        let mut peer = Peer::connect(server);
        peer.id = id;
        let (code, payload) = peer.ask(1027, &field(name.as_bytes()));
        assert_eq!((code, payload.len(), &payload[..16]), (1605, 144, &id[..]));
        let file_key = key.unwrap("sha256", &payload[16..]).expect("it opens with SHA-256");
        (peer, file_key)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub fn header(&self, code: u16, payload_bytes: u32) -> Vec<u8> {
        [&self.id[..], &[self.version], &code.to_le_bytes(), &payload_bytes.to_le_bytes()].concat()
    }

    pub fn say(&mut self, code: u16, payload: &[u8]) {
        let message = [self.header(code, payload.len() as u32), payload.to_vec()].concat();
        self.send(&message);
    }

    /// The next answer; none where the server has closed the connection.
    pub fn hear(&mut self) -> Option<Answer> {
        let mut header = [0; 7];
        match self.stream.read(&mut header[..1]) {
            Ok(0) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            other => other.expect("an answer in time"),
        };
        self.stream.read_exact(&mut header[1..]).expect("a whole header");
        assert_eq!(header[0], 3, "the version of every deployed server");
        let code = u16::from_le_bytes([header[1], header[2]]);
        let mut payload = vec![0; u32::from_le_bytes(header[3..].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut payload).expect("a whole payload");
        Some((code, payload))
    }

    #[track_caller]
    pub fn ask(&mut self, code: u16, payload: &[u8]) -> Answer {
        self.say(code, payload);
        self.hear().unwrap_or_else(|| panic!("no answer to {code}"))
    }

    /// The next answer is a general error, and the connection goes on.
    #[track_caller]
    pub fn expect_error(&mut self) {
        assert_eq!(self.hear(), Some((GENERAL_ERROR, Vec::new())));
    }

    /// The next answer is a general error, and then the server closes.
    #[track_caller]
    pub fn expect_error_and_close(&mut self) {
        self.expect_error();
        let _ = self.stream.shutdown(Shutdown::Write);
        assert_eq!(self.hear(), None, "the server closes");
    }

    #[track_caller]
    pub fn register(&mut self, name: &str) {
        let (code, payload) = self.ask(1025, &field(name.as_bytes()));
        assert_eq!((code, payload.len()), (1600, 16));
        self.id = payload.try_into().unwrap();
    }

    #[track_caller]
    pub fn send_key(&mut self, name: &str, key: &Key) -> [u8; 32] {
        let (code, payload) = self.ask(1026, &[&field(name.as_bytes())[..], &key.public].concat());
        assert_eq!((code, payload.len(), &payload[..16]), (1602, 144, &self.id[..]));
        key.unwrap("sha256", &payload[16..]).expect("it opens with SHA-256")
    }

    /// One packet. The sizes are as given, right or not.
    pub fn say_packet(&mut self, name: &[u8], original_bytes: u32, number: u16, total: u16, ciphertext: &[u8]) {
        let payload_bytes = 267 + ciphertext.len() as u32;
        let mut message = self.header(1028, payload_bytes);
        message.extend((ciphertext.len() as u32).to_le_bytes());
        message.extend(original_bytes.to_le_bytes());
        message.extend(number.to_le_bytes());
        message.extend(total.to_le_bytes());
        message.extend(field(name));
        message.extend(ciphertext);
        self.send(&message);
    }

    /// Packet `number` of a file as it is.
    pub fn say_part(&mut self, name: &str, file: &Encrypted, number: u16, packet_bytes: u64) {
        let (total, part) = (file.packets(packet_bytes), file.part(number, packet_bytes));
        self.say_packet(name.as_bytes(), file.original_bytes, number, total, &part);
    }

    /// Sends all packets in order and hears that the file was received as it was sent.
    #[track_caller]
    pub fn send_file(&mut self, name: &str, file: &Encrypted, packet_bytes: u64) {
        for number in 1..=file.packets(packet_bytes) {
            self.say_part(name, file, number, packet_bytes);
        }
        self.expect_received(name, file);
    }

    /// The next answer says that the file arrived as it was sent.
    #[track_caller]
    pub fn expect_received(&mut self, name: &str, file: &Encrypted) {
        let (code, payload) = self.hear().expect("an answer to the last packet");
        assert_eq!((code, payload.len()), (1603, 279), "{name}");
        assert_eq!(payload[..16], self.id);
        assert_eq!(payload[16..20], (file.ciphertext_bytes as u32).to_le_bytes());
        assert_eq!(payload[20..275], field(name.as_bytes()));
        assert_eq!(payload[275..], file.checksum.to_le_bytes(), "the checksum of {name}");
    }

    /// 1029, 1030 or 1031, acknowledged.
    #[track_caller]
    pub fn conclude(&mut self, code: u16, name: &str) {
        assert_eq!(self.ask(code, &field(name.as_bytes())), (1604, self.id.to_vec()), "{code} for {name}");
    }

    /// Sends a file and confirms it.
    #[track_caller]
    pub fn store(&mut self, name: &str, file: &Encrypted, packet_bytes: u64) {
        self.send_file(name, file, packet_bytes);
        self.conclude(1029, name);
    }
}

/// Bytes without a pattern that a mistake in order could hide behind.
pub fn write_noise(workplace: &Workplace, name: &str, bytes: usize) -> PathBuf {
    let mut state = bytes as u64 + 88_172_645_463_325_252;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend(state.to_le_bytes());
    }
    content.truncate(bytes);
    workplace.write(name, content)
}

/// Makes a large file without holding it in memory.
pub fn write_large(workplace: &Workplace, name: &str, mebibytes: usize) -> PathBuf {
    let path = workplace.join(name);
    let mut out = std::io::BufWriter::new(File::create(&path).unwrap());
    let words = ["enc", "-aes-256-ctr", "-K", &"7".repeat(64), "-iv", &"0".repeat(32), "-in", "/dev/zero"];
    let mut noise =
        Command::new("openssl").args(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let from = noise.stdout.take().unwrap();
    std::io::copy(&mut from.take(mebibytes as u64 * 1024 * 1024), &mut out).unwrap();
    out.flush().unwrap();
    let _ = noise.kill();
    let _ = noise.wait();
    path
}

/// The heads of all snapshots on the server's disk, oldest first.
pub fn heads(server: &TestServer) -> Vec<serde_json::Value> {
    let mut found = Vec::new();
    for client in std::fs::read_dir(server.data.join("snapshots")).unwrap().flatten() {
        for item in std::fs::read_dir(client.path()).unwrap().flatten() {
            let name = item.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") && name.contains("Z-") {
                let head: serde_json::Value = serde_json::from_slice(&std::fs::read(item.path()).unwrap()).unwrap();
                found.push(head);
            }
        }
    }
    found.sort_by_key(|head| head["sequence"].as_u64());
    found
}
