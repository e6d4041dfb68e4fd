//! The description agrees with what is served.

use reqwest::Method;

use crate::bed::{Answer, Server};

#[tokio::test]
async fn every_described_call_is_there_and_no_other_method() {
    let server = Server::start().await;
    let answer = server.get("/openapi.json", "x").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 21);
    for (path, calls) in paths {
        let address =
            path.replace("{stream}", "s").replace("{group}", "g").replace("{channel}", "c");
        let calls = calls.as_object().unwrap();
        for method in ["get", "put", "post", "delete", "patch"] {
            let request = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            // Without a credential, every call but the open ones is refused for that alone.
            let call = server.client.request(request, server.url(&address)).body("");
            let answer = Answer::of(call.send().await.unwrap()).await;
            let wanted = match calls.get(method) {
                None => 405,
                Some(call) if call["security"].is_array() => 200,
                Some(_) => 401,
            };
            assert_eq!(answer.status, wanted, "{method} {path}: {}", answer.text);
            if wanted == 405 {
                assert_eq!(answer.code(), "method_not_allowed");
                assert!(!answer.header("allow").is_empty());
            }
        }
    }
}

#[tokio::test]
async fn the_page_for_people_needs_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = server.get("/docs", "x").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(page.text.contains("/openapi.json") && !page.text.contains("src="));
}
