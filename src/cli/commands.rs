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
    switch("encrypt-at-rest", "with --local-server: seal all contents in its data folder"),
    valued("storage-key-file", "FILE", "with --local-server: the key of a store that is sealed, or is to be"),
    valued("storage-key-command", "CMD", "the same, as CMD prints it (no shell)"),
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

const ROOT: Flag = valued("root", "PATH", "with latest: the newest snapshot of this root");

const SELECT: &[Flag] =
    &[valued("snapshot", "ID", "a snapshot id, a unique beginning of one, or latest (latest)"), ROOT];

/// Flags of the commands that open what is in a vault.
pub const VAULT_KEY: &[Flag] = &[
    valued("vault-key", "FILE", "the full key of a vault (vault.key in the state folder)"),
    valued(
        "passphrase-file",
        "FILE",
        "the passphrase of that key; else CYBERBACKUP_PASSPHRASE, else it is asked for",
    ),
    valued("passphrase-command", "CMD", "the same, as CMD prints it (no shell)"),
];

/// Flags of operator's commands that read what is sealed, where no server runs.
const STORAGE_KEY: &[Flag] = &[
    valued("storage-key-file", "FILE", "the key of a store that is sealed at rest, where no server has it"),
    valued("storage-key-command", "CMD", "the same, as CMD prints it (no shell)"),
];

const PRUNE: &[Flag] = &[
    valued("data", "DIR", "the server's data folder (server/)"),
    valued("client", "NAME", "only this client (all)"),
    valued("keep-last", "N", "keep the last N snapshots; only with --keep-within"),
    valued("keep-hourly", "N", "keep the last snapshot of each of the last N hours that have one"),
    valued("keep-daily", "N", "the same for days"),
    valued("keep-weekly", "N", "the same for weeks"),
    valued("keep-monthly", "N", "the same for months"),
    valued("keep-yearly", "N", "the same for years"),
    valued("keep-within", "TIME", "keep all that are younger: 12h, 7d, 2w or 1y; 0 for none (7d)"),
    valued("keep-tag", "TEXT", "keep those with this tag; may be repeated; a vault's are sealed: hold keeps one"),
    valued("policy", "FILE", "take the rules of each client from this file instead"),
    valued("snapshot", "ID", "drop this snapshot, without any rule; may be repeated; never from the environment"),
    switch("dry-run", "drop nothing; say why each is kept or dropped, and what would be free"),
];

const HOLD: &[Flag] = &[
    valued("data", "DIR", "the server's data folder (server/)"),
    valued("client", "NAME", "whose snapshot it is (anybody's)"),
];

pub const COMMANDS: &[Command] = &[
    Command {
        name: "server",
        usage: "[FLAGS]",
        summary: "run the backup server",
        about: "Accepts backups and keeps them below its data folder. Prints where it listens and its key's\n\
                fingerprint. SIGINT or SIGTERM ends it: running work has the grace time, then connections close.\n\
                With --repair it mends its data folder and ends; no other server may run on that. docs/recovery.md",
        flags: &[
            &[
                valued("bind", "ADDRESS", "the address to listen on (0.0.0.0)"),
                valued("port", "N", "the port, 0 for any free one (port.info, else 1256)"),
                valued("data", "DIR", "the data folder (server/)"),
                switch("encrypt-at-rest", "seal all contents on the disk, with a storage key"),
                valued(
                    "storage-key-file",
                    "FILE",
                    "that key; made, outside the data folder, for a store without one",
                ),
                valued("storage-key-command", "CMD", "the same, as CMD prints it (no shell)"),
                valued("max-clients", "N", "sessions at a time (50); also MAX_CONCURRENT_CLIENTS"),
                valued("registration", "POLICY", "who may register: local, open, token or closed (local)"),
                valued("legacy", "on|off", "whether clients of the legacy dialect are served (on)"),
                valued(
                    "legacy-oaep",
                    "HASH",
                    "what their keys are wrapped with: sha256, or sha1 for older ones (sha256)",
                ),
                valued("timeout", "SECONDS", "how long a message may take (60); also CLIENT_SOCKET_TIMEOUT"),
                switch("low-memory", "use little memory for each session: a window of 131072 bytes"),
                valued("grace", "SECONDS", "how long running work may go on at the end (30)"),
                valued("prune-daily", "HH:MM", "prune every day at that time, UTC, as --policy says"),
                valued("policy", "FILE", "with --prune-daily: what each client keeps, in JSON"),
                valued(
                    "verify-sample",
                    "SHARE",
                    "with --prune-daily: then verify so much, as 10%, longest ago first",
                ),
                valued("rsa-bits", "N", "size of a new server key, 1024 to 4096 (3072)"),
                valued("on-event", "CMD", "run CMD at failures, damage, silence, quotas, low space (no shell)"),
                valued("low-space", "SIZE", "warn when less is left on the disk: 20G, or a share, 5%"),
                valued("stale-after", "TIME", "warn of clients without a success for so long: 36h, 3d"),
                valued("dashboard", "[ADDR:PORT]", "serve the operator's page and metrics (127.0.0.1:9091)"),
                valued("dashboard-token", "TOKEN", "who has it may see the page; off loopback one is made anyway"),
                valued("rekey-bytes", "BYTES", "data under one key before the keys advance (68719476736)"),
                switch("repair", "serve nobody: rebuild what is damaged of its data, name what is lost (exit 6)"),
                switch("dry-run", "with --repair: only say what would be done"),
                switch("new-key", "with --repair: a new key pair where the server's own is lost"),
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
                valued("on-success", "CMD", "run CMD when all is stored (no shell)"),
                valued("on-failure", "CMD", "run CMD when not, or not all, is stored (no shell)"),
                switch("vault", "back up into a vault, which the server cannot read: see \"cyberbackup vault\""),
                valued("vault-key", "FILE", "with --vault: either key of it (vault-put.key in the state folder)"),
                valued("passphrase-file", "FILE", "with --vault, where only the full key is there: its passphrase"),
                valued("passphrase-command", "CMD", "the same, as CMD prints it (no shell)"),
                switch("legacy", "send to an installed server of the older kind: contents only, less safe"),
                valued("legacy-packet", "BYTES", "with --legacy: bytes in one packet, 16 to 16777216 (1048576)"),
                valued("legacy-exponent", "N", "with --legacy: public exponent of a new key, 17 or 65537 (17)"),
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
        flags: &[&[valued("to", "DIR", "where to restore to; made if missing")], SELECT, VAULT_KEY, CLIENT, COMMON],
    },
    Command {
        name: "snapshots",
        usage: "[FLAGS]",
        summary: "list the snapshots",
        about: "Lists this client's snapshots, oldest first. Of those in a vault it says only when they were stored;\n\
                with the vault's full key (--vault-key, or a passphrase given) this host opens what is sealed of them,\n\
                and lists those too that other hosts have stored into it.",
        flags: &[VAULT_KEY, CLIENT, COMMON],
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
            VAULT_KEY,
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
            VAULT_KEY,
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "find",
        usage: "[FLAGS] PATTERN…",
        summary: "find files in the snapshots, by name",
        about: "Prints snapshot, time, size and path of all that matches one of the patterns, in all of this client's\n\
                snapshots, newest first. In a pattern * is any characters, ? one, [a-z] one of these, ** any folders;\n\
                quote it. Without a slash it is about a name, with slashes about the last names of a path, and with a\n\
                slash before it about the whole path. With the full key of a vault given, other hosts' snapshots in it\n\
                are looked into too. Exit code 0: found; 1: nothing found; 3: snapshots in a vault\n\
                whose key is not here, which are named, were not looked into; 6: damaged lists were met.",
        flags: &[
            &[
                valued(
                    "snapshot",
                    "ID",
                    "only this snapshot: an id, a unique beginning of one, latest, or all (all)",
                ),
                ROOT,
                Flag {
                    name: "ignore-case",
                    short: Some('i'),
                    value: None,
                    help: "small letters match capital ones",
                },
                valued("type", "TYPE", "only files (f), folders (d) or links (l)"),
                valued(
                    "newer",
                    "TIME",
                    "only what was changed after it: 2026-01-31, 2026-01-31T12:00 (UTC), or 3d ago",
                ),
                valued("older", "TIME", "only what was changed before it"),
                valued("larger", "SIZE", "only files with more than so many bytes: 500, 10M, 2G"),
                valued("smaller", "SIZE", "only files with less"),
                Flag { name: "null", short: Some('0'), value: None, help: "end each row with a NUL byte" },
            ],
            VAULT_KEY,
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "diff",
        usage: "[FLAGS] SNAPSHOT [SNAPSHOT] [PATH…]",
        summary: "list what differs between two snapshots",
        about: "Compares two snapshots, or one with the latest: all of them, or what lies at the paths. Prints a line\n\
                for each path that differs, and a summary:\n\
                + added   - removed   M other content   U other mode, owner, time or link target   T other type\n\
                A snapshot is an id, a unique beginning of one, or latest. A path that looks like an id is given with\n\
                a / before it. Exit code 0: no difference; 1: differences; 6: damaged lists were met.",
        flags: &[
            &[ROOT, Flag { name: "null", short: Some('0'), value: None, help: "end each path with a NUL byte" }],
            VAULT_KEY,
            CLIENT,
            COMMON,
        ],
    },
    Command {
        name: "verify",
        usage: "[FLAGS] [PATH…]",
        summary: "have the server read stored files back and check them",
        about: "Checks size, CRC32 and BLAKE3 of everything this client has stored, or of one snapshot. Damaged\n\
                files are named (exit 6), and the next backup stores them again if they are still there.\n\
                Of a vault the server checks its checksums; with the full key (--vault-key or a passphrase given)\n\
                this host opens heads and lists and follows their chain, with --read-data all contents too: of its own\n\
                snapshots, or, where it has none in that vault, of all. Exit code 3: some of its snapshots are in\n\
                vaults whose key is not here; they are named, were not looked into, and nothing else is damaged.\n\
                The operator's \"verify --data DIR\" checks all that a server keeps, or a sample of it, and names each\n\
                damaged file of the store with the snapshots that need it. It works beside a running server too.",
        flags: &[
            &[
                valued("client", "NAME", "with --data: only this client (all)"),
                valued(
                    "sample",
                    "SHARE",
                    "with --data: so much of the contents, those read longest ago first: 10%",
                ),
                valued("snapshot", "ID", "only this snapshot: an id, a unique beginning of one, or latest"),
                ROOT,
                switch("read-data", "of a vault: fetch and open every content too"),
            ],
            VAULT_KEY,
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
        name: "rotate-key",
        usage: "[FLAGS]",
        summary: "exchange this client's key for a new one",
        about: "Makes a new key (--rsa-bits), proves it to the server, and logs in with it. From then on the old one\n\
                opens nothing. Cut off anywhere, the next command finishes it, or this can be run again.",
        flags: &[CLIENT, COMMON],
    },
    Command {
        name: "vault",
        usage: "create | passphrase | export-put-key FILE [FLAGS]",
        summary: "make the keys of a vault, which the server cannot read, or change their passphrase",
        about: "create          makes a vault's keys, for \"backup --vault\": the full key, under a passphrase, in\n\
                \x20               vault.key, and the half that writes, in clear, in vault-put.key of the state folder\n\
                passphrase      seals the full key under another passphrase; what is stored stays as it is\n\
                export-put-key  writes the half that writes to FILE: all that a host needs that only backs up. It\n\
                \x20               can test guesses and plant chunks, and cannot read\n\
                Keep a copy of vault.key in a safe place: without it and its passphrase, what is in the vault is\n\
                gone for good. Nothing is sent to any server.",
        flags: &[
            VAULT_KEY,
            &[
                valued("new-passphrase-file", "FILE", "with passphrase: the new one; else it is asked for"),
                valued("new-passphrase-command", "CMD", "the same, as CMD prints it (no shell)"),
                valued(
                    "state",
                    "DIR",
                    "the state folder (else client/ beside transfer.info, else the per-user one)",
                ),
                valued("config", "FILE", "a transfer.info elsewhere"),
                switch("low-memory", "have the passphrase take 16 MiB of memory whenever the key is opened"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "gui",
        usage: "[FLAGS]",
        summary: "serve the page and its API to a browser",
        about: "Serves the page on http://127.0.0.1:9090, to browsers of the same user of this host; others need the\n\
                token. Begins when the backup server is away, too. A server that was never met is pinned when its key\n\
                is confirmed on the page. SIGINT or SIGTERM ends it; what runs can be resumed. The log also goes to\n\
                api_server_log.txt in the state folder. The API: docs/api.md.",
        flags: &[
            &[
                valued("bind", "ADDRESS", "the address to listen on (127.0.0.1)"),
                valued("port", "N", "the port, 0 for any free one (9090)"),
                switch("open", "open the page in a browser"),
                valued("token", "TEXT", "let in whoever has this; off loopback one is made where none is given"),
                valued("static-dir", "DIR", "serve the page's files from there"),
            ],
            CLIENT,
            COMMON,
        ],
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
                switch("legacy", "no token: let a legacy client register as NAME, once, within an hour"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "export",
        usage: "[--client NAME] SNAPSHOT DIR | [--client NAME] SNAPSHOT --tar FILE|-",
        summary: "lay a client's snapshot out as a tree or a tar stream (operator)",
        about: "Recreates the whole paths of a snapshot of any client under DIR, or writes them as a tar stream (POSIX\n\
                pax). SNAPSHOT is an id, a unique beginning of one, or latest; without --client it has to be of\n\
                one client only. Every content is checked: in a tree a file takes its name only then, in a tar\n\
                stream damaged ones are left out. Damaged files are named (exit 6). Works beside a running server\n\
                too.",
        flags: &[
            &[
                valued("client", "NAME", "whose snapshot (needed for latest where there are several clients)"),
                valued("tar", "FILE", "write a tar stream there instead, - for standard output"),
                valued("data", "DIR", "the server's data folder (server/)"),
            ],
            STORAGE_KEY,
            COMMON,
        ],
    },
    Command {
        name: "clients",
        usage: "[--stale TIME] | reset NAME | remove NAME --yes | quota NAME SIZE | rename NAME NEW",
        summary: "list the clients of a server, or change one (operator)",
        about: "Lists every client: its last success, its snapshots, files and bytes of the newest one, what all of\n\
                them take at the server, how much of that came in the last 30 days, its quota and its key.\n\
                reset   forgets the key: with a token from \"cyberbackup enroll NAME\", NAME registers a new one\n\
                \x20       and has all its snapshots; its sessions end\n\
                remove  removes the client and all that it stored, for good; not while it has a session\n\
                quota   how much its snapshots may take together: 500M, 20GiB, 2T; none takes it away\n\
                rename  gives it another name; it is still let in under the old one\n\
                Works beside a running server too.",
        flags: &[
            &[
                valued("data", "DIR", "the server's data folder (server/)"),
                valued("stale", "TIME", "only those without a success for so long, as in 36h or 3d; exit 1 if any"),
                switch("yes", "with remove: yes, remove it"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "server-key",
        usage: "[rotate | finish | withdraw] [FLAGS]",
        summary: "show the server's key, or exchange it for a new one (operator)",
        about: "Shows the fingerprint; with a next key, that too, and the clients that have not heard of it yet.\n\
                rotate    makes a next key; each client hears of it at its next run, and accepts both\n\
                finish    uses the next key from now on; clients that have not heard of it end with exit 5\n\
                withdraw  drops the next key; each client hears of that at its next run\n\
                Works beside a running server too.",
        flags: &[
            &[
                valued("data", "DIR", "the server's data folder (server/)"),
                valued("rotate-after", "TIME", "with rotate: use the next key after so long by itself, as in 30d"),
                valued("rsa-bits", "N", "with rotate: size of the next key, 1024 to 4096 (3072)"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "prune",
        usage: "[--data DIR] --keep-… N [FLAGS]",
        summary: "drop snapshots that no rule keeps, and free their space (operator)",
        about: "Applies the rules to each client and set of roots. A snapshot that one rule keeps is kept, as are the\n\
                newest and those that are held. Rules imply --keep-within 7d unless it is given. Hours, days, ISO\n\
                weeks, months and years are UTC. Works beside a running server too, uploads and restores going on.",
        flags: &[PRUNE, STORAGE_KEY, COMMON],
    },
    Command {
        name: "rekey",
        usage: "[--data DIR] --new-storage-key-file FILE | --plain [FLAGS]",
        summary: "seal a store at rest, unseal it, or change its storage key (operator)",
        about: "Writes every file of the store anew, sealed with the new key, which is made where its file is missing;\n\
                with --plain, unsealed. Give the present key, if there is one, with --storage-key-file. No server may\n\
                run on the data folder. Cut off anywhere, the same command finishes it. Unfinished uploads are\n\
                removed: their clients begin them anew.",
        flags: &[
            &[
                valued("data", "DIR", "the server's data folder (server/)"),
                valued("storage-key-file", "FILE", "the present key"),
                valued("storage-key-command", "CMD", "the same, as CMD prints it (no shell)"),
                valued("new-storage-key-file", "FILE", "the new key; made if missing, outside the data folder"),
                valued("new-storage-key-command", "CMD", "the same, as CMD prints it (no shell)"),
                switch("plain", "seal nothing any more"),
            ],
            COMMON,
        ],
    },
    Command {
        name: "hold",
        usage: "SNAPSHOT [--data DIR] [FLAGS]",
        summary: "have a snapshot kept whatever the rules say (operator)",
        about: "SNAPSHOT is an id, or a unique beginning of one; with --client, latest too.",
        flags: &[HOLD, COMMON],
    },
    Command {
        name: "release",
        usage: "SNAPSHOT [--data DIR] [FLAGS]",
        summary: "let the rules decide about a held snapshot again (operator)",
        about: "SNAPSHOT is an id, or a unique beginning of one; with --client, latest too.",
        flags: &[HOLD, COMMON],
    },
];

pub const HELP: &str = "help";
