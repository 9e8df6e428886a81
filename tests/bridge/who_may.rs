//! Foreign hosts, foreign origins, other users.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::Gui;
use crate::support::{Workplace, closed_address};

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[test]
fn a_foreign_host_or_origin_is_refused() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    let port = gui.address.port();
    let ask = |line: &str, headers: &str| {
        status(&gui.raw(format!("{line} HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes())).to_string()
    };
    assert_eq!(ask("GET /api/status", &format!("Host: localhost:{port}")), "200");
    for host in ["evil.example", "localhost", "localhost:1", &format!("evil.example:{port}")] {
        assert_eq!(ask("GET /api/status", &format!("Host: {host}")), "403", "{host}");
    }
    let own = format!("Host: localhost:{port}\r\nContent-Length: 0\r\n");
    assert_eq!(ask("POST /api/disconnect", &own), "200");
    assert_eq!(ask("POST /api/disconnect", &format!("{own}Origin: http://localhost:{port}")), "200");
    for origin in ["null", "http://evil.example", &format!("https://localhost:{port}"), "http://localhost:1"] {
        assert_eq!(ask("POST /api/disconnect", &format!("{own}Origin: {origin}")), "403", "{origin}");
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(ask("GET /ws", &format!("Host: localhost:{port}\r\n{upgrade}Origin: {origin}")), "403");
    }
    let twice = format!("{own}Origin: http://localhost:{port}\r\nOrigin: http://evil.example");
    assert_eq!(ask("POST /api/disconnect", &twice), "400");
}

/// Runs as root only: nobody else can become another user.
#[test]
#[cfg(target_os = "linux")]
fn another_user_of_this_host_needs_the_token() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &["--token", "let-me-in"]);
    let host = gui.address;
    let as_other = |request: String| {
        // The request is in the script; bash itself opens the socket, as the other user.
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; printf '{request} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n' >&3; cat <&3",
            host.port()
        );
        let output = Command::new("bash").args(["-c", &script]).uid(65_534).gid(65_534).current_dir("/").output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    assert_eq!(status(&as_other("GET /api/status".into())), "401");
    assert_eq!(status(&as_other("GET /".into())), "401");
    assert_eq!(status(&as_other("GET /health".into())), "200");
    assert_eq!(status(&as_other("GET /?token=wrong".into())), "401");
    let welcome = as_other("GET /?token=let-me-in".into());
    assert_eq!(status(&welcome), "303", "{welcome}");
    let cookie = welcome.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let with = |header: &str| {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /api/status HTTP/1.1\\r\\nHost: {host}\\r\\n{header}\\r\\n\\r\\n' \
             >&3; cat <&3",
            host.port()
        );
        let output = Command::new("bash").args(["-c", &script]).uid(65_534).gid(65_534).current_dir("/").output();
        status(&String::from_utf8_lossy(&output.unwrap().stdout)).to_string()
    };
    assert_eq!(with(&format!("Cookie: {cookie}")), "200");
    assert_eq!(with("Authorization: Bearer let-me-in"), "200");
    assert_eq!(with("Authorization: bearer let-me-in"), "200");
    assert_eq!(with("Authorization: Bearer let-me-i"), "401");
    // The format of the shell's printf takes a sign of per cent twice.
    assert_eq!(status(&as_other("GET /?token=let%%2dme-in".into())), "303");
}

#[test]
fn a_second_gui_says_who_holds_the_port() {
    let workplace = Workplace::new();
    let gui = Gui::start_with(&workplace, &closed_address(), &[]);
    let port = gui.address.port().to_string();
    let words = ["gui", "--port", &port, "--server", "localhost:1", "--user", "b", "--state", "other"];
    let run = workplace.run(words).expect(1);
    assert!(run.err().contains("another \"cyberbackup gui\""), "{}", run.err());
    assert!(run.err().contains(&gui.id().to_string()), "{}", run.err());
}
