//! TLS between the command line and the server.

use std::path::PathBuf;

use crate::run::{finish, run_in};
use crate::server::{Server, folder};

fn file(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls_files");
    folder.join(name).display().to_string()
}

#[test]
fn commands_reach_a_server_with_a_certificate() {
    let folder = folder();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let server = Server::start(folder.path(), &["--tls-cert", &cert, "--tls-key", &key]);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let ca = file("ca.pem");
    let add = ["add", "orders", "1", "--type", "t", "--ca", &ca];
    assert!(finish(&mut server.apix(&add)).ok().contains('-'));
    let tail = ["tail", "live", "--since", "0-0", "--max", "1", "--ca", &ca];
    let hybrid = ["hybrid", "2", "--type", "t", "--channel", "live", "--ca", &ca];
    finish(&mut server.apix(&hybrid)).ok();
    assert!(finish(&mut server.apix(&tail)).ok().contains("  t  2"));
    let stranger = finish(&mut server.apix(&["add", "orders", "1", "--type", "t"])).refused(4);
    assert!(stranger.contains("certificate"), "{stranger}");
}

#[test]
fn a_certificate_needs_its_key() {
    let folder = folder();
    let (cert, ca) = (file("cert.pem"), file("ca.pem"));
    let serve = |cert: &str, key: &str| {
        let arguments =
            ["serve", "--dev", "--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key];
        run_in(folder.path(), &arguments).refused(2)
    };
    assert!(serve(&cert, &ca).contains("private key"));
    assert!(serve("missing.pem", &ca).contains("missing.pem"));
}
