//! The newest lines of the log, for the page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use log::Level;
use serde_json::{Value, json};

use super::hub::Hub;
use crate::base::time::Timestamp;

/// Lines that are kept.
const LINES_MAX: usize = 2_000;
/// How much of a line is kept, in bytes.
const LINE_BYTES_MAX: usize = 2_000;

/// Takes every line of the log, and tells whoever watches.
#[derive(Default)]
pub struct LogBook {
    lines: Mutex<VecDeque<Line>>,
    hub: OnceLock<Arc<Hub>>,
}

#[derive(Clone)]
struct Line {
    time: Timestamp,
    level: Level,
    message: String,
}

impl Line {
    fn json(&self) -> Value {
        json!({
            "time": self.time.to_string(),
            "level": self.level.as_str().to_ascii_lowercase(),
            "message": self.message,
        })
    }
}

impl LogBook {
    /// From now on lines are told there too.
    pub fn attach(&self, hub: Arc<Hub>) {
        let _ = self.hub.set(hub);
    }

    pub fn add(&self, level: Level, text: &str) {
        let cut = (0..=LINE_BYTES_MAX.min(text.len())).rev().find(|place| text.is_char_boundary(*place));
        let message = text[..cut.unwrap_or(0)].to_string();
        let line = Line { time: Timestamp::now(), level, message };
        if let Some(hub) = self.hub.get().filter(|_| level <= Level::Info) {
            hub.tell_single("log", || line.json());
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The newest `limit` lines of `level` and worse that hold `text`, oldest first.
    pub fn find(&self, level: Level, text: &str, limit: usize) -> Vec<Value> {
        let text = text.to_lowercase();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |line: &&Line| line.level <= level && line.message.to_lowercase().contains(&text);
        let mut found: Vec<Value> = lines.iter().rev().filter(fits).take(limit).map(Line::json).collect();
        found.reverse();
        found
    }
}
