//! The tables of commands and flags.

use super::arguments::{Command, Flag};

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: None, help }
}

const fn valued(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, value: Some(value), help }
}

/// Flags of every command.
pub const COMMON: &[Flag] = &[
    switch("json", "print one JSON object a line on standard output"),
    Flag {
        name: "quiet",
        short: Some('q'),
        value: None,
        help: "no progress, no notices; errors and the result only",
    },
    Flag { name: "verbose", short: Some('v'), value: None, help: "say what is used and what is done" },
    valued("log-file", "FILE", "write the log there too, rotated at 10 MiB, five old ones kept"),
    Flag { name: "help", short: Some('h'), value: None, help: "show this" },
];

/// Flags of every command that talks to a server.
pub const CLIENT: &[Flag] = &[
    valued("server", "HOST:PORT", "the server (else line 1 of transfer.info)"),
    switch("local-server", "run a server inside this process, with its data in server/"),
    valued("data", "DIR", "with --local-server: its data folder (server/)"),
    valued("user", "NAME", "the name (else line 2 of transfer.info, the state folder's, USER@HOST)"),
    valued("state", "DIR", "the state folder (else client/ beside transfer.info, else the per-user one)"),
    valued("config", "FILE", "a transfer.info elsewhere"),
    valued("server-fingerprint", "SHA256:…", "the key that the server must have"),
    valued("enroll-token", "TOKEN", "what \"cyberbackup enroll NAME\" printed at the server"),
    valued("retries", "N", "tries after a lost or refused connection (5)"),
    valued("retry-max-wait", "SECONDS", "longest wait between two tries (60, at most 300)"),
    valued("timeout", "SECONDS", "how long the server may stay silent (60)"),
    valued("rsa-bits", "N", "size of a new key, 1024 to 4096 (3072)"),
    valued("window", "BYTES", "memory for data on its way, 65536 to 16777216 (as the line needs)"),
    switch("low-memory", "use little memory: a window of 262144 bytes"),
];

const SELECT: &[Flag] = &[
    valued("snapshot", "ID", "a snapshot id, a unique beginning of one, or latest (latest)"),
    valued("root", "PATH", "with latest: the newest snapshot of this root"),
];

pub const COMMANDS: &[Command] = &[
    Command {
        name: "server",
        usage: "[FLAGS]",
        summary: "run the backup server",
        about: "Accepts backups and keeps them below its data folder. Prints where it listens and its key's\n\
                fingerprint. SIGINT or SIGTERM ends it: running work has the grace time, then connections close.",
        flags: &[
            &[
                valued("bind", "ADDRESS", "the address to listen on (0.0.0.0)"),
                valued("port", "N", "the port, 0 for any free one (port.info, else 1256)"),
                valued("data", "DIR", "the data folder (server/)"),
                valued("max-clients", "N", "sessions at a time (50); also MAX_CONCURRENT_CLIENTS"),
                valued("registration", "POLICY", "who may register: local, open, token or closed (local)"),
                valued("timeout", "SECONDS", "how long a message may take (60); also CLIENT_SOCKET_TIMEOUT"),
                valued("grace", "SECONDS", "how long running work may go on at the end (30)"),
                valued("rsa-bits", "N", "size of a new server key, 1024 to 4096 (3072)"),
                valued("rekey-bytes", "BYTES", "data under one key before the keys advance (68719476736)"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "backup",
        usage: "[FLAGS] [PATH…]",
        summary: "back files up",
        about: "Backs up the paths, or what transfer.info names. Files that cannot be read are named and left out\n\
                (exit 3). The program's own state and data folders are never part of a backup.",
        flags: &[
            &[
                switch("dry-run", "say what would be sent; store nothing"),
                switch("full", "compare with no earlier snapshot: send everything"),
                valued("parent", "ID", "compare with this snapshot instead of the newest"),
                switch("ignore-inode", "another inode alone is no change"),
                switch("ignore-ctime", "another ctime alone is no change"),
                valued("label", "TEXT", "a note kept with the snapshot"),
                valued("tag", "TEXT", "a tag kept with the snapshot; may be given several times"),
            ],
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "restore",
        usage: "--to DIR [FLAGS] [PATH…]",
        summary: "give a snapshot back, whole or in part",
        about: "Recreates the whole paths under DIR (DIR/home/a/x). PATH is as \"cyberbackup ls\" prints it; without\n\
                one, all of the snapshot is restored. Every file is checked against its CRC32 and BLAKE3 before it\n\
                takes its name.",
        flags: &[&[valued("to", "DIR", "where to restore to; made if missing")], SELECT, CLIENT, COMMON],
    },
    Command {
        name: "snapshots",
        usage: "[FLAGS]",
        summary: "list the snapshots",
        about: "Lists this client's snapshots, oldest first.",
        flags: &[CLIENT, COMMON],
    },
    Command {
        name: "ls",
        usage: "[FLAGS] [PATH…]",
        summary: "list what is in a snapshot",
        about: "Lists paths and all that lies below them. On a terminal, characters that could disturb it are\n\
                escaped; elsewhere names come as they are.",
        flags: &[
            &[
                Flag { name: "long", short: Some('l'), value: None, help: "with mode, size and time" },
                Flag { name: "null", short: Some('0'), value: None, help: "end each path with a NUL byte" },
            ],
            SELECT,
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "cat",
        usage: "[FLAGS] PATH",
        summary: "print a file of a snapshot",
        about: "Prints one file to standard output, checked against its checksums when it is printed whole.",
        flags: &[
            &[
                valued("offset", "BYTES", "begin there (0)"),
                valued("length", "BYTES", "print at most so many bytes (all)"),
            ],
            SELECT,
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "verify",
        usage: "[FLAGS] [PATH…]",
        summary: "have the server read stored files back and check them",
        about: "Checks size, CRC32 and BLAKE3 of everything this client has stored, or of one snapshot. Damaged\n\
                files are named (exit 6).",
        flags: &[
            &[
                valued("snapshot", "ID", "only this snapshot: an id, a unique beginning of one, or latest"),
                valued("root", "PATH", "with latest: the newest snapshot of this root"),
            ],
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "stats",
        usage: "[FLAGS]",
        summary: "print the server's connection statistics",
        about: "Prints sessions, slots, uptime, bytes, files, failures and repeated segments of a running server.",
        flags: &[CLIENT, COMMON],
    },
    Command {
        name: "enroll",
        usage: "NAME [--data DIR] [FLAGS]",
        summary: "make a token that lets NAME register (operator)",
        about: "Prints a token. It is bound to the name, works once, names this server's key, and expires. Works\n\
                beside a running server too.",
        flags: &[
            &[
                valued("data", "DIR", "the server's data folder (server/)"),
                valued("valid-hours", "N", "how long it is valid (72)"),
                valued("count", "N", "make N tokens, for NAME-1 to NAME-N"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "clients",
        usage: "[--data DIR] [FLAGS]",
        summary: "list the clients of a server (operator)",
        about: "Lists name, last success, snapshots, files and bytes of every client. Works beside a running server\n\
                too.",
        flags: &[&[valued("data", "DIR", "the server's data folder (server/)")], COMMON],
    },
];

pub const HELP: &str = "help";
