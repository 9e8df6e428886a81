//! The figures, for people and for machines.

use std::fmt::Write;

use serde_json::json;

use crate::floors::Floors;
use crate::scenarios::Row;

const MIB: f64 = 1048576.0;

pub fn text(rows: &[Row], floors: &Floors) -> String {
    let mut text = format!(
        "{:<20} {:>8} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9} {:>7} {:>7} {:>8} {:>7}\n",
        "scenario",
        "wall s",
        "client",
        "server",
        "client",
        "server",
        "wire",
        "stored",
        "× aes",
        "× copy",
        "rsync s",
        "× rsync",
    );
    let _ = writeln!(
        text,
        "{:<20} {:>8} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9}",
        "", "", "CPU s", "CPU s", "MiB", "MiB", "MiB", "MiB"
    );
    for row in rows {
        let cost = &row.cost;
        let _ = writeln!(
            text,
            "{:<20} {:>8.3} {:>7.2} {:>7.2} {:>7.1} {:>7.1} {:>9.3} {:>9.3} {:>7} {:>7} {:>8} {:>7}",
            row.name,
            cost.wall,
            cost.client_cpu,
            cost.server_cpu,
            cost.client_kib as f64 / 1024.0,
            cost.server_kib as f64 / 1024.0,
            cost.wire as f64 / MIB,
            cost.stored as f64 / MIB,
            or_dash(to_floor(row, floors.aes_cbc)),
            or_dash(to_floor(row, Some(floors.loopback))),
            row.rsync.map_or("–".to_string(), |wall| format!("{wall:.3}")),
            or_dash(row.rsync.map(|wall| cost.wall / wall)),
        );
    }
    text
}

pub fn json(rows: &[Row], floors: &Floors) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "scenario": row.name,
                "wall_seconds": row.cost.wall,
                "client_cpu_seconds": row.cost.client_cpu,
                "server_cpu_seconds": row.cost.server_cpu,
                "client_peak_kib": row.cost.client_kib,
                "server_peak_kib": row.cost.server_kib,
                "wire_bytes": row.cost.wire,
                "stored_bytes": row.cost.stored,
                "times_aes_cbc": to_floor(row, floors.aes_cbc),
                "times_loopback": to_floor(row, Some(floors.loopback)),
                "rsync_seconds": row.rsync,
            })
        })
        .collect();
    let all = json!({"aes_cbc_bytes_per_second": floors.aes_cbc, "loopback_bytes_per_second": floors.loopback, "scenarios": rows});
    format!("{all:#}\n")
}

/// How many times as long as a floor would take for the same bytes.
fn to_floor(row: &Row, bytes_per_second: Option<f64>) -> Option<f64> {
    Some(row.cost.wall / (row.bulk? as f64 / bytes_per_second?))
}

fn or_dash(ratio: Option<f64>) -> String {
    ratio.map_or("–".to_string(), |ratio| format!("{ratio:.2}"))
}
