//! Users, passwords and certificates.

use std::process::Command;

use apix::{Broker, ErrorKind, Update};
use apix_redis::{RedisBroker, RedisOptions, Secret, TlsOptions};

use super::server::{RedisServer, free_port};
use super::tenant::{Tenant, eventually};

#[tokio::test]
async fn a_user_with_the_rights_of_one_tenant_is_enough() {
    let server = RedisServer::start().await;
    let mut admin = server.client();
    let rules = "on >s3cret ~tenant:acme:* ~{tenant:acme:* ~{apix}:format &tenant:acme:* \
                 &apix:probe:* -@all +@connection +@pubsub +@read +@write +@scripting \
                 +@transaction +info +config|get +time";
    let rules: Vec<&str> = rules.split_whitespace().collect();
    let done = admin.call(&[&["ACL", "SETUSER", "apix"], &rules[..]].concat());
    assert_eq!(done.text(), "OK");
    let url = format!("redis://apix:s3cret@127.0.0.1:{}", server.port);
    let options = RedisOptions { url, ..RedisOptions::default() };
    let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
    let mut live = tenant.broker.subscribe(&tenant.channel).await.unwrap();
    let shown = tenant
        .broker
        .publish_hybrid(&tenant.stream, &tenant.channel, super::tenant::event(1))
        .await
        .unwrap();
    assert_eq!(shown.subscriber_count, Some(1));
    assert!(matches!(live.recv().await, Some(Update::Message(_))));
    let delivery = tenant.read_one("c").await;
    tenant.retry(&delivery, 30).await.unwrap();
    let again = tenant.read_one("c").await;
    assert_eq!(tenant.acknowledge(&[again]).await, 1);
    tenant.broker.stream_stats(&tenant.stream).await.unwrap();
    assert_eq!(tenant.broker.trim(&tenant.stream).await.unwrap(), 0);
    eventually("all is well", async || tenant.broker.check().await.is_ok()).await;

    let other = apix::TenantContext::trusted("other").unwrap();
    let foreign = apix::StreamKey::new(&other, apix::StreamName::new("orders").unwrap());
    let refused = tenant.broker.append(&foreign, vec![super::tenant::event(1)]).await.unwrap_err();
    assert!(refused.message().contains("ACL"), "{refused}");
    let channel = apix::ChannelKey::new(&other, apix::ChannelName::new("news").unwrap());
    let refused = tenant.broker.subscribe(&channel).await.unwrap_err();
    assert!(refused.message().contains("ACL"), "{refused}");
}

#[tokio::test]
async fn a_password_may_change() {
    let server = RedisServer::with(&["--save", "", "--requirepass", "first"]).await;
    let refused = RedisBroker::connect(server.options()).await.unwrap_err();
    assert!(refused.message().contains("password"), "{refused}");
    let file = server.folder.path().join("password");
    std::fs::write(&file, "wrong\n").unwrap();
    let options = RedisOptions { password: Some(Secret::File(file.clone())), ..server.options() };
    let refused = RedisBroker::connect(options.clone()).await.unwrap_err();
    assert!(refused.message().contains("refuses the user name or password"), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    std::fs::write(&file, "first\n").unwrap();
    let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
    tenant.add(1).await;

    let mut admin = server.client();
    admin.call(&["AUTH", "first"]);
    std::fs::write(&file, "second\n").unwrap();
    admin.call(&["CONFIG", "SET", "requirepass", "second"]);
    admin.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("it is connected with the new password", async || {
        tenant.broker.check().await.is_ok()
    })
    .await;
}

fn openssl(folder: &std::path::Path, command: &str) {
    let done = Command::new("openssl")
        .args(command.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl can be started");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn tls_with_an_authority_and_a_client_certificate_of_our_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(
        folder.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca",
    );
    for name in ["server", "client"] {
        let request = format!(
            "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        );
        openssl(folder.path(), &request);
        openssl(
            folder.path(),
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.pem"
            ),
        );
    }
    let text = |name: &str| path(name).to_string_lossy().into_owned();
    let tls_port = free_port();
    let server = RedisServer::with(&[
        "--save",
        "",
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &text("server.pem"),
        "--tls-key-file",
        &text("server.key"),
        "--tls-ca-cert-file",
        &text("ca.pem"),
    ])
    .await;
    let tls = TlsOptions {
        ca_file: Some(path("ca.pem")),
        cert_file: Some(path("client.pem")),
        key_file: Some(path("client.key")),
    };
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("rediss://{host}:{tls_port}");
        let options = RedisOptions { url, tls: tls.clone(), ..RedisOptions::default() };
        let tenant = Tenant::with(RedisBroker::connect(options).await.unwrap());
        tenant.add(1).await;
        assert_eq!(tenant.read("c", 10, 1_000).await.len(), 1);
    }
    let url = format!("rediss://127.0.0.1:{tls_port}");
    let untrusted = RedisOptions { url, ..RedisOptions::default() };
    assert!(RedisBroker::connect(untrusted).await.is_err());
    drop(server);
}
