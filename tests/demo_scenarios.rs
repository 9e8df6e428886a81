//! End to end: what somebody does on the first day, and what must hold however odd the files are.

use crate::support::{TestClient, TestServer, Workplace, tree};

#[test]
fn an_odd_tree_comes_back_to_the_last_property() {
    let workplace = Workplace::new();
    let server = TestServer::start(&workplace);
    let client = TestClient::new(&workplace, &server.address, "ada");
    let source = workplace.join("source");
    tree::odd(&source);
    client.backup(&source);
    tree::assert_same(&source, &client.restore(&source, "restored"));
}
