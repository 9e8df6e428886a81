//! Figures, by hand: `cargo test --release --lib vault::tests::scale -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Stores so many chunks of so many blocks, 1,024 to a list.
fn store_many(fixture: &Fixture, count: u64, blocks: usize) -> Arc<Head> {
    let mut client = Client::begin(&fixture.store, fixture.client, request(UploadId::random())).unwrap();
    for first in (0..count).step_by(1_024) {
        let names: Vec<ChunkName> = (first..(first + 1_024).min(count)).map(chunk_name).collect();
        for name in &names {
            client.upload.chunk(*name, &sealed(*name, client.key, blocks)).unwrap();
        }
        client.upload.list(&bytes_of(&names)).unwrap();
        client.upload.needs(list_id(&names).as_bytes()).unwrap();
    }
    client.commit().unwrap()
}

#[test]
#[ignore = "takes seconds"]
fn twenty_thousand_objects() {
    let fixture = fixture();
    let made = processor_seconds();
    for number in 0..20_000 {
        std::hint::black_box(sealed(chunk_name(number), DataKeyId::from_bytes([0; 16]), 508));
    }
    let (began, before) = (Instant::now(), processor_seconds());
    let making = before - made;
    store_many(&fixture, 20_000, 508);
    let used = processor_seconds() - before - making;
    println!("20,000 chunks of 8 KiB: {used:.2} s of processor, {:.2} s", began.elapsed().as_secs_f64());
}

#[test]
#[ignore = "takes minutes"]
fn a_million_chunks() {
    let fixture = fixture();
    for (part, count) in [(0, 10_000), (1, 1_000_000)] {
        let began = Instant::now();
        let head = store_many(&fixture, count, 2 + part);
        println!("{count} chunks: {:.1} s, {} KiB resident at most", began.elapsed().as_secs_f64(), resident_kib());
        let began = Instant::now();
        fixture.store.drop_snapshots(fixture.client, &[head.id]).unwrap();
        fixture.store.sweep(fixture.client).unwrap();
        println!("{:?}: {:.1} s", fixture.store.tidy_vault(vault()).unwrap(), began.elapsed().as_secs_f64());
        println!("{} KiB resident at most", resident_kib());
    }
    let index = fixture.path().join(INDEX).metadata().unwrap().len();
    println!("index: {index} bytes");
}
