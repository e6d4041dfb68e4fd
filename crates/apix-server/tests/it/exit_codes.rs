//! What a script can tell by the exit code.

use std::net::TcpListener;

use crate::run::{apix, finish, finish_with_input, run_in};
use crate::server::{Server, folder};

#[test]
fn usage_is_2() {
    let folder = folder();
    for wrong in [
        &["add"][..],
        &["add", "orders", "1"],
        &["add", "orders", "--type", "t"],
        &["add", "orders", "not json", "--type", "t"],
        &["add", "orders", "@missing.json", "--type", "t", "--url", "nonsense"],
        &["add", "orders", "1", "--type", "t", "--url", "ftp://x"],
        &["publish", "news", "1"],
        &["hybrid", "1"],
        &["hybrid", "--ndjson", "--stream", "s"],
        &["tail"],
        &["tail", "news", "--since", "{broken"],
        &["consume", "orders", "--exec", "true"],
        &["streams", "delete", "orders"],
        &["dead-letters", "orders", "retry"],
        &["token", "--org", "_system", "--permissions", "admin"],
        &["token", "--org", "acme", "--permissions", "streams:fly:*"],
        &["completions", "word"],
        &["nonsense"],
    ] {
        run_in(folder.path(), wrong).refused(2);
    }
    let help = run_in(folder.path(), &["--help"]).ok();
    assert!(help.contains("Exit codes:") && help.contains("4  unreachable"), "{help}");
}

#[test]
fn refused_is_3_and_names_the_code() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--broker", "memory:"]);
    for (arguments, code) in [
        (&["add", "a/b", "1", "--type", "t"][..], "(invalid_name)"),
        (&["add", "audit", "1", "--type", "t"], "(reserved_name)"),
        (&["add", "orders", "1", "--type", ""], "(invalid_request)"),
        (&["replay", "missing"], "(not_found)"),
        (&["streams", "show", "missing"], "(not_found)"),
        (&["groups", "missing", "show", "g"], "(not_found)"),
        (&["tail", "a/b"], "(invalid_name)"),
        (&["tail", "news", "--since", "yesterday"], "(invalid_request)"),
    ] {
        let refused = finish(&mut server.apix(arguments)).refused(3);
        assert!(refused.contains(code), "{arguments:?}: {refused}");
    }
    let mut nobody = server.apix(&["streams"]);
    let refused = finish(nobody.env_remove("APIX_TOKEN")).refused(3);
    assert!(refused.contains("APIX_TOKEN"), "{refused}");
    let mut lines = server.apix(&["add", "orders", "--ndjson"]);
    let mixed =
        b"{\"eventType\":\"t\",\"payload\":1}\n\nnot json\n{\"eventType\":\"t\",\"payload\":2}\n";
    let ran = finish_with_input(&mut lines, mixed);
    assert!(ran.stderr.contains("line 3: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 events added, 1 lines refused"), "{}", ran.stderr);
    ran.refused(3);
}

#[test]
fn unreachable_is_4() {
    let folder = folder();
    let nobody = ["add", "orders", "1", "--type", "t", "--url", "http://127.0.0.1:1"];
    let refused = run_in(folder.path(), &nobody).refused(4);
    assert!(refused.contains("127.0.0.1:1") && refused.contains("refused"), "{refused}");
    run_in(folder.path(), &["tail", "news", "--url", "http://127.0.0.1:1"]).refused(4);
    // Connections are accepted by the kernel, and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let slow = ["streams", "--url", &url, "--timeout", "1"];
    let refused = run_in(folder.path(), &slow).refused(4);
    assert!(refused.contains("within 1 s"), "{refused}");
    let slow = ["tail", "news", "--url", &url, "--timeout", "1"];
    run_in(folder.path(), &slow).refused(4);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--broker", "memory:"]);
    let lines = "{\"eventType\":\"t\",\"payload\":1}\n".repeat(20_000);
    let mut add = server.apix(&["add", "orders", "--ndjson"]);
    finish_with_input(&mut add, lines.as_bytes()).ok();
    let command = format!(
        "{} replay orders | head -n 1; {} completions bash | head -n 1",
        env!("CARGO_BIN_EXE_apix"),
        env!("CARGO_BIN_EXE_apix")
    );
    let mut shell = std::process::Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &command]);
    let prepared = server.apix(&[]);
    for (name, value) in prepared.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    let ran = finish(&mut shell);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.ok().lines().count(), 2);
    assert_eq!(finish(apix().args(["--version"])).code, 0);
}
