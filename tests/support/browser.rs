//! A real Chromium, driven over WebDriver: plain HTTP to the distribution's `chromedriver`, one request after the
//! other. Where there is none, the test fails and says what is to be installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

/// How long the driver may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the driver is started until it has a port.
const DRIVER_STARTS_MAX: u32 = 5;
/// How long the page may take to become what a test waits for.
const WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The checker of accessibility.
const AXE: &str = include_str!("../testdata/axe/axe.min.js");

/// What Chromium is started with: nothing of the network but what the page asks for.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
];

/// A browser with one window; it ends when this is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Chromium's own folder, and the one for downloads.
    profile: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Browser {
        let mut command = Command::new("chromedriver");
        let command = command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let (driver, port) = start_driver(command);
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut browser = Browser { driver, port, session: String::new(), profile };
        let profile = format!("--user-data-dir={}", browser.profile.path().join("profile").display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let downloads = browser.downloads();
        std::fs::create_dir(&downloads).unwrap();
        let made = browser.call(
            "POST",
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "unhandledPromptBehavior": "accept",
                "goog:loggingPrefs": {"browser": "ALL"},
                "goog:chromeOptions": {"args": flags, "prefs": {"download.default_directory": downloads}},
            }}}),
        );
        browser.session = format!("/session/{}", made["sessionId"].as_str().expect("a session"));
        browser.cdp("Browser.setDownloadBehavior", json!({"behavior": "allow", "downloadPath": downloads}));
        browser.resize(1280, 860);
        browser
    }

    /// Where downloads go.
    pub fn downloads(&self) -> std::path::PathBuf {
        self.profile.path().join("downloads")
    }

    /// One request to the driver; its `value`.
    #[track_caller]
    fn call(&self, method: &str, path: &str, data: &Value) -> Value {
        let value = self.ask(method, path, data);
        assert!(value["error"].is_null(), "{method} {path}: {value}");
        value
    }

    /// The same, whatever is answered.
    fn ask(&self, method: &str, path: &str, data: &Value) -> Value {
        let body = if method == "POST" { data.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the driver accepts");
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer: Value = read_answer(stream);
        answer["value"].take()
    }

    #[track_caller]
    fn post(&self, path: &str, data: Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), &data)
    }

    /// One command of Chromium's own protocol.
    #[track_caller]
    pub fn cdp(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    #[track_caller]
    pub fn go(&self, url: &str) {
        self.post("/url", json!({ "url": url }));
    }

    pub fn reload(&self) {
        self.post("/refresh", json!({}));
    }

    /// The size of what the page is shown in; below 600 it is a phone.
    pub fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.cdp("Emulation.setDeviceMetricsOverride", size);
    }

    /// Runs JavaScript: the body of a function.
    #[track_caller]
    pub fn script(&self, text: &str) -> Value {
        self.post("/execute/sync", json!({"script": text, "args": []}))
    }

    /// Waits until an expression of JavaScript is true of the page, and gives its value.
    #[track_caller]
    pub fn wait_for(&self, expression: &str) -> Value {
        let deadline = Instant::now() + WAIT;
        loop {
            let value = self.script(&format!("return {expression}"));
            if !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                return value;
            }
            if Instant::now() > deadline {
                let page = self.script("return document.querySelector('main').innerText");
                panic!("never true: {expression}\nconsole: {:?}\n{page}", self.console());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until an element that can be seen holds the text.
    #[track_caller]
    pub fn wait_for_text(&self, selector: &str, text: &str) {
        let [selector, text] = [json!(selector), json!(text)];
        self.wait_for(&format!(
            "[...document.querySelectorAll({selector})].some((one) => one.checkVisibility() && one.innerText.includes({text}))"
        ));
    }

    /// The element that a selector finds.
    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        id.expect("an element").to_string()
    }

    /// Clicks as a person does: on what can be seen and is in nobody's shadow.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.wait_for(&format!("document.querySelector({})?.checkVisibility()", json!(selector)));
        self.click_found(|| self.element(selector));
    }

    /// Clicks an element. The page may have drawn it anew between the finding and the click: then once more.
    #[track_caller]
    fn click_found(&self, find: impl Fn() -> String) {
        let deadline = Instant::now() + WAIT;
        loop {
            let path = format!("{}/element/{}/click", self.session, find());
            let value = self.ask("POST", &path, &json!({}));
            if value["error"].is_null() {
                return;
            }
            assert!(value["error"] == "stale element reference" && Instant::now() < deadline, "{path}: {value}");
        }
    }

    /// Moves the pointer to the middle of an element.
    #[track_caller]
    pub fn hover(&self, selector: &str) {
        let place = self.middle_of(selector);
        self.cdp("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": place[0], "y": place[1]}));
    }

    #[track_caller]
    fn middle_of(&self, selector: &str) -> Value {
        self.script(&format!(
            "const box = document.querySelector({}).getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]",
            json!(selector)
        ))
    }

    /// Clicks the button or link with this text that can be seen.
    #[track_caller]
    pub fn click_text(&self, text: &str) {
        let found = format!(
            "[...document.querySelectorAll('button, a, [role=treeitem] > .tree-row, summary')].find((one) => \
             one.checkVisibility() && one.innerText.trim().startsWith({}))",
            json!(text)
        );
        self.click_found(|| {
            let element = self.wait_for(&found);
            let id = element.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
            id.expect("an element").to_string()
        });
    }

    /// Types into a field, or gives paths to a file input.
    #[track_caller]
    pub fn enter(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("/element/{element}/value"), json!({ "text": text }));
    }

    /// Presses keys wherever the focus is. Keys without a letter: see WebDriver, "Keyboard Actions".
    pub fn press(&self, keys: &str) {
        let each = |key: char| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let actions: Vec<Value> = keys.chars().flat_map(each).collect();
        self.post("/actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }

    /// Drops files and folders of this host on an element, as a file manager does.
    #[track_caller]
    pub fn drop_on(&self, selector: &str, paths: &[&Path]) {
        let place = self.middle_of(selector);
        for step in ["dragEnter", "dragOver", "drop"] {
            let data = json!({"items": [], "files": paths, "dragOperationsMask": 1});
            self.cdp("Input.dispatchDragEvent", json!({"type": step, "x": place[0], "y": place[1], "data": data}));
        }
    }

    /// What the console has been told since this was asked last: lines of any level.
    pub fn console(&self) -> Vec<String> {
        let lines = self.post("/se/log", json!({"type": "browser"}));
        let line = |line: &Value| format!("{} {}", line["level"], line["message"]);
        lines.as_array().into_iter().flatten().map(line).collect()
    }

    /// Nothing was told to the console.
    #[track_caller]
    pub fn assert_quiet(&self) {
        assert_eq!(self.console(), Vec::<String>::new(), "the console");
    }

    /// The accessibility checker finds nothing in what is shown.
    #[track_caller]
    pub fn assert_accessible(&self, what: &str) {
        self.script(&format!("if (!window.axe) {{ {AXE} }}"));
        // Colours are judged when they have stopped changing.
        self.wait_for("document.getAnimations().every((one) => one.effect.getTiming().iterations === Infinity)");
        let found = self.post(
            "/execute/async",
            json!({"script": "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then((found) => \
                done(found.violations.map(({id, help, nodes}) => [id, help, nodes.slice(0, 5).map((node) => \
                [node.html.slice(0, 200), node.failureSummary])])), (error) => done([String(error)]))", "args": []}),
        );
        assert_eq!(found, json!([]), "{what}: {found:#}");
    }

    /// A picture of what is shown, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        let text = self.call("GET", &format!("{}/screenshot", self.session), &Value::Null);
        base64::engine::general_purpose::STANDARD.decode(text.as_str().expect("a picture")).expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let ended = || self.call("DELETE", &self.session, &Value::Null);
            // The driver ends Chromium; that failing must not hide why a test fails.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(ended));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Starts the driver. It looks for a free port first and takes it then: another may be quicker.
fn start_driver(command: &mut Command) -> (Child, u16) {
    for _ in 0..DRIVER_STARTS_MAX {
        let mut driver = command.spawn().unwrap_or_else(|error| {
            panic!("chromedriver cannot be run ({error}): install chromium and chromium-driver (tests/run does)")
        });
        if let Some(port) = driver_port(&mut driver) {
            return (driver, port);
        }
        let _ = driver.kill();
        let _ = driver.wait();
    }
    panic!("chromedriver took no port in {DRIVER_STARTS_MAX} starts")
}

/// The port that the driver took, from what it prints.
fn driver_port(driver: &mut Child) -> Option<u16> {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let said = lines.find_map(|line| {
        let line = line.ok()?;
        line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
    });
    // What it prints later must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    said
}

/// The JSON of an answer: its length is told, and the driver may keep the line.
fn read_answer(stream: TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer of the driver");
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("all of the answer");
    serde_json::from_slice(&body).expect("JSON")
}
