//! The vault: what the server stores and cannot read.

mod independent;
mod backing_up;
mod keys;
mod secrecy;

use crate::support::{TestClient, TestServer, Workplace};

const SERVER: [&str; 2] = ["--rsa-bits", "2048"];
const PASSPHRASE: &str = "a passphrase for tests";

fn client<'a>(workplace: &'a Workplace, server: &TestServer) -> TestClient<'a> {
    TestClient::new(workplace, &server.address, "ada")
}

/// Makes a vault whose key file takes little to open.
fn create_vault(client: &TestClient<'_>) {
    let mut command = client.command(["vault", "create", "--low-memory"]);
    command.env("CYBERBACKUP_PASSPHRASE", PASSPHRASE);
    crate::support::Run::of(command).expect(0);
}
