//! HTTP/2 by upgrade, as curl asks for it.

use serde_json::json;
use sluice_tests::world::tool_path;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use super::world::{Endpoint, Setup, rule, whole};

async fn curl(words: &[&str]) -> String {
    let output = Command::new(tool_path("curl")).args(["-sS", "--http2"]).args(words).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn echo() -> Endpoint {
    Endpoint::serve(|request| async move {
        let text =
            format!("{} {} {:?}", request.method(), request.uri().path(), request.headers().get("x-own"));
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        http::Response::new(whole([text.as_bytes(), b" ", &body].concat()))
    })
    .await
}

#[tokio::test]
async fn curl_gets_http2_by_upgrade_and_goes_on_with_it() {
    let endpoint = echo().await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let (first, second) = (format!("http://{}/one?q", world.front), format!("http://{}/two", world.front));
    let format = "|%{http_version} %{http_code} %{num_connects}\\n";
    let told = curl(&["-w", format, "-H", "x-own: y", &first, &second]).await;
    assert_eq!(told, "GET /one Some(\"y\") |2 200 1\nGET /two Some(\"y\") |2 200 0\n");
    let seen = endpoint.last();
    assert!(seen.headers.get("http2-settings").is_none() && seen.headers.get("upgrade").is_none());
    world.until("responses2xx", 2).await;
    assert_eq!(
        (world.count("requests"), world.count("responses1xx"), world.count("connectionsBroken")),
        (2, 0, 0)
    );
}

#[tokio::test]
async fn a_request_with_a_body_is_answered_as_it_came() {
    let endpoint = echo().await;
    let world = Setup::http(&[&endpoint], json!([rule(json!({}))])).start();
    let told = curl(&["-w", "|%{http_version}", "-d", "body", &format!("http://{}/", world.front)]).await;
    assert_eq!(told, "POST / None body|1.1");
}

#[tokio::test]
async fn who_does_not_go_on_by_http2_is_closed() {
    let endpoint = echo().await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.header_timeout = std::time::Duration::from_millis(100);
    let world = setup.start();
    for (case, more, counter) in [
        ("nothing", &b""[..], "refusedSlowHeaders"),
        ("HTTP/1", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "connectionsBroken"),
    ] {
        let mut socket = TcpStream::connect(world.front).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
            http2-settings: AAMAAABk\r\n\r\n";
        socket.write_all(&[&ask[..], more].concat()).await.unwrap();
        let mut answer = Vec::new();
        // It may be a reset.
        let _end = socket.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{case}: {}", String::from_utf8_lossy(&answer));
        world.until(counter, 1).await;
        assert_eq!(endpoint.hits(), 0, "{case}");
    }
}
