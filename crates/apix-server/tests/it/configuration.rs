//! Flags over variables over the file, and what is said when one of them is wrong.

use std::fs;

use crate::run::{apix, finish, run_in};
use crate::server::{Server, folder};

const SECRET: &str = "a secret of at least thirty-two bytes";

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = folder();
    let config = folder.path().join("apix.toml");
    fs::write(
        &config,
        format!(
            "listen = \"256.0.0.1:1\"\nbroker = \"embedded:from-file\"\ndrain_timeout = \"1s\"\n\
             [[auth.jwt_keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\ntenants = [\"*\"]\n"
        ),
    )
    .unwrap();
    let mut command = apix();
    command
        .current_dir(folder.path())
        .env("APIX_LISTEN", "also wrong")
        .env("APIX_BROKER", "embedded:from-variable")
        .args(["serve", "--listen", "127.0.0.1:0"]);
    let server = Server::spawn(folder.path(), &mut command);
    assert!(folder.path().join("from-variable").is_dir());
    assert!(!folder.path().join("from-file").exists());
    assert!(server.log().contains("apix.toml"), "{}", server.log());
    let token = finish(apix().env("APIX_JWT_SECRET", SECRET).args([
        "token",
        "--org",
        "acme",
        "--user",
        "anna",
        "--permissions",
        "streams:write:*",
    ]))
    .ok();
    let mut add = server.apix(&["add", "orders", "1", "--type", "t"]);
    finish(add.env("APIX_TOKEN", token.trim())).ok();
    let mut read = server.apix(&["replay", "orders"]);
    let refused = finish(read.env("APIX_TOKEN", token.trim())).refused(3);
    assert!(refused.contains("streams:read:orders"), "{refused}");
}

#[test]
fn a_named_file_and_api_keys_by_digest() {
    let folder = folder();
    let made = run_in(folder.path(), &["token", "new-key", "--org", "acme", "--name", "test"]).ok();
    let (key, entry) = made.split_once('\n').unwrap();
    assert!(!entry.contains(key));
    let config = folder.path().join("other.toml");
    fs::write(&config, format!("broker = \"memory:\"\nlisten = \"127.0.0.1:0\"\n{entry}")).unwrap();
    let mut command = apix();
    command.current_dir(folder.path()).args(["serve", "--config", "other.toml"]);
    let server = Server::spawn(folder.path(), &mut command);
    let mut add = server.apix(&["add", "orders", "1", "--type", "t"]);
    finish(add.env("APIX_TOKEN", key)).ok();
}

#[test]
fn without_credentials_it_says_how_to_get_some() {
    let folder = folder();
    let refused = run_in(folder.path(), &["serve", "--listen", "127.0.0.1:0"]).refused(2);
    for word in ["--dev", "auth.api_keys", "APIX_JWT_SECRET"] {
        assert!(refused.contains(word), "{refused}");
    }
    assert!(!folder.path().join("apix-data").exists());
}

#[test]
fn a_wrong_configuration_is_named_in_one_line() {
    let folder = folder();
    let refused = |file: &str, arguments: &[&str]| {
        fs::write(folder.path().join("apix.toml"), file).unwrap();
        let arguments = [&["serve", "--dev", "--listen", "127.0.0.1:0"], arguments].concat();
        let ran = run_in(folder.path(), &arguments);
        assert_eq!(ran.stdout, "");
        ran.refused(2)
    };
    let unknown = refused("[http]\nmax_bodi_bytes = 1\n", &[]);
    assert!(
        unknown.contains("apix.toml line 2") && unknown.contains("max_body_bytes"),
        "{unknown}"
    );
    let broken = refused("listen = \n", &[]);
    assert!(broken.contains("apix.toml line 1"), "{broken}");
    let missing = refused("", &["--config", "nowhere.toml"]);
    assert!(missing.contains("nowhere.toml"), "{missing}");
    let secret = refused(
        "[[auth.jwt_keys]]\nalgorithm = \"HS256\"\nsecret = \"short\"\ntenants = [\"*\"]\n",
        &[],
    );
    assert!(secret.contains("32"), "{secret}");
    for (broker, word) in [
        ("redis-cluster://a:1", "not supported"),
        ("rediss-sentinel://a:1/m", "not supported"),
        ("nats://a", "embedded:DIR"),
        ("embedded:", "folder"),
    ] {
        let ran = run_in(folder.path(), &["serve", "--dev", "--broker", broker]);
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
    let durable = refused("", &["--broker", "memory:", "--durability", "disk"]);
    assert!(durable.contains("memory"), "{durable}");
    let replicas = refused("", &["--durability", "replicas:2"]);
    assert!(replicas.contains("replicas"), "{replicas}");
    let address = run_in(folder.path(), &["serve", "--dev", "--listen", "nonsense"]).refused(2);
    assert!(address.contains("HOST:PORT"), "{address}");
}

#[test]
fn what_is_taken_is_said_plainly() {
    let folder = folder();
    let server = Server::start(folder.path(), &[]);
    let data = format!("embedded:{}", folder.path().join("data").display());
    let second = ["serve", "--dev", "--listen", "127.0.0.1:0", "--broker", &data];
    let locked = run_in(folder.path(), &second).refused(1);
    assert!(locked.contains("data"), "{locked}");
    let listen = server.url.strip_prefix("http://").unwrap();
    let taken =
        run_in(folder.path(), &["serve", "--dev", "--listen", listen, "--broker", "memory:"]);
    let taken = taken.refused(1);
    assert!(taken.contains("in use") && taken.contains(listen), "{taken}");
    let nobody = ["serve", "--dev", "--listen", "127.0.0.1:0", "--broker", "redis://127.0.0.1:1"];
    let unreachable = run_in(folder.path(), &nobody).refused(4);
    assert!(unreachable.contains("redis://127.0.0.1:1"), "{unreachable}");
}
