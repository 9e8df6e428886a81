//! The server's figures in the text format of Prometheus, version 0.0.4: for each name a HELP and a TYPE line, then its
//! samples. Only figures of clients carry a label, and only [`METRIC_CLIENTS_MAX`] clients have them.

use std::fmt::{Display, Write};

use serde_json::Value;

use crate::base::limits::METRIC_CLIENTS_MAX;
use crate::server::{Overview, Report};

/// A figure of each client: its name, its help, and the field of a row of `clients`.
const CLIENT_FIGURES: [(&str, &str, &str); 6] = [
    ("client_snapshots", "Snapshots stored of the client.", "snapshots"),
    ("client_damaged_snapshots", "Snapshots of the client whose heads cannot be read.", "damaged_snapshots"),
    ("client_latest_bytes", "Bytes of the files in the client's newest snapshot.", "latest_bytes"),
    ("client_latest_files", "Files in the client's newest snapshot.", "latest_files"),
    (
        "client_stored_bytes",
        "Bytes that the client's snapshots were counted for when they were stored.",
        "stored_bytes",
    ),
    ("client_quota_bytes", "What the client may store; absent without a quota.", "quota_bytes"),
];

/// The whole text.
pub fn text(server: &Overview) -> String {
    let mut page = Page(String::new());
    page.of_server(&server.report());
    if let Ok(space) = server.space() {
        page.gauge("disk_size_bytes", "Size of the file system of the data folder.", space.total);
        page.gauge("disk_available_bytes", "What the server may still write there.", space.available);
        page.gauge("disk_low", "1 where less is left than --low-space wants.", u8::from(server.is_low(space)));
    }
    page.gauge("failures_kept", "Failures that the dashboard shows.", server.failures().len());
    page.of_clients(&server.clients());
    page.0
}

struct Page(String);

impl Page {
    fn of_server(&mut self, report: &Report) {
        let version = format!("{{version=\"{}\"}}", escaped(env!("CARGO_PKG_VERSION")));
        self.head("info", "The program; always 1.", "gauge");
        self.sample("info", &version, 1);
        self.gauge("uptime_seconds", "Since the server started.", report.uptime_seconds);
        self.gauge("active_connections", "Authenticated sessions now.", report.active_connections);
        self.gauge("max_connections", "Sessions that there may be at a time.", report.max_connections);
        self.gauge("available_slots", "Sessions that could begin now.", report.available_slots);
        self.gauge("waiting_connections", "Connections that have proved nothing yet.", report.waiting_connections);
        let counters = [
            ("dropped_connections_total", "Waiting connections ended for a newcomer.", report.dropped_connections),
            ("connections_total", "Connections that spoke.", report.connections),
            ("sessions_total", "Authenticated sessions.", report.sessions),
            ("failures_total", "Connections and commands that ended badly.", report.failures),
            ("busy_answers_total", "Clients told to come again later.", report.busy_answers),
            ("snapshots_total", "Snapshots stored by this run.", report.snapshots),
            ("files_received_total", "Files in the snapshots stored by this run.", report.files_received),
            ("received_bytes_total", "Bytes received by commands that have ended.", report.bytes_received),
            ("sent_bytes_total", "Bytes sent by commands that have ended.", report.bytes_sent),
            ("segments_damaged_total", "Segments that arrived damaged.", report.segments_damaged),
            ("segments_repeated_total", "Segments that the server sent again.", report.segments_repeated),
        ];
        for (name, help, value) in counters {
            self.head(name, help, "counter");
            self.sample(name, "", value);
        }
    }

    fn of_clients(&mut self, rows: &[Value]) {
        self.gauge("clients", "Registered clients.", rows.len());
        let left_out = rows.len().saturating_sub(METRIC_CLIENTS_MAX);
        self.gauge("clients_without_metrics", "Clients beyond those that are named here.", left_out);
        let rows = &rows[..rows.len() - left_out];
        let labels: Vec<String> = rows.iter().map(label).collect();
        let last = |row: &Value| row["last_success_seconds"].as_i64();
        let name = "client_last_success_timestamp_seconds";
        self.head(name, "When the client's newest snapshot was stored; absent before the first one.", "gauge");
        for (row, label) in rows.iter().zip(&labels) {
            if let Some(seconds) = last(row) {
                self.sample(name, label, seconds);
            }
        }
        for (name, help, field) in CLIENT_FIGURES {
            self.head(name, help, "gauge");
            for (row, label) in rows.iter().zip(&labels) {
                if let Some(value) = row[field].as_u64() {
                    self.sample(name, label, value);
                }
            }
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        self.sample(name, "", value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP cyberbackup_{name} {help}\n# TYPE cyberbackup_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "cyberbackup_{name}{labels} {value}");
    }
}

fn label(row: &Value) -> String {
    format!("{{client=\"{}\"}}", escaped(row["name"].as_str().unwrap_or_default()))
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_cannot_leave_its_label() {
        let mut page = Page(String::new());
        page.of_clients(&[json!({ "name": "a\"} 1\n\\x", "snapshots": 3 })]);
        assert!(page.0.contains("\ncyberbackup_client_snapshots{client=\"a\\\"} 1\\n\\\\x\"} 3\n"), "{}", page.0);
        assert!(!page.0.contains("quota_bytes{"), "what a client has not is absent");
    }

    #[test]
    fn so_many_clients_are_named_and_the_rest_is_counted() {
        let rows: Vec<Value> = (0..METRIC_CLIENTS_MAX + 5)
            .map(|number| json!({ "name": number.to_string(), "snapshots": 1 }))
            .collect();
        let mut page = Page(String::new());
        page.of_clients(&rows);
        assert_eq!(page.0.matches("cyberbackup_client_snapshots{").count(), METRIC_CLIENTS_MAX);
        assert!(page.0.contains("\ncyberbackup_clients_without_metrics 5\n"), "{}", page.0);
    }
}
