//! Who connects: pods by address, IPv4 over IPv6 sockets, source addresses, log lines.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use hyper::client::conn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sluice::redirector::{Options, Pod, Redirector, SourceAddress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    process::Command,
};

use super::world::{Endpoint, Setup, World, read, rule, whole};

/// One request from an address of one's own.
async fn ask_from(world: &World, client: [u8; 4]) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(client.into(), 0)).unwrap();
    let stream = socket.connect(world.front).await.unwrap();
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "a").body(whole("")).unwrap();
    read(sender.send_request(request).await.unwrap()).await.status
}

fn pod(name: &str, address: [u8; 4], labels: Value) -> Pod {
    let pod =
        json!({"namespace": "shop", "name": name, "addresses": [IpAddr::from(address)], "labels": labels});
    serde_json::from_value(pod).unwrap()
}

#[tokio::test]
async fn a_pod_is_told_by_its_address() {
    let direct =
        |labels: Value, status: u16| json!({"match": [labels], "directResponse": {"status": status}});
    let rules = json!([
        direct(json!({"sourceLabels": {"app": "web"}}), 201),
        direct(json!({"sourceNamespace": "shop"}), 202),
        direct(json!({"uri": {"prefix": "/"}}), 203),
    ]);
    let setup = Setup::http(&[], rules.clone());
    let world = setup.start();
    let mut snapshot = Setup::http(&[], rules).snapshot(world.front);
    snapshot.pods =
        vec![pod("web", [127, 0, 0, 2], json!({"app": "web"})), pod("db", [127, 0, 0, 3], json!({}))];
    world.redirector.apply(snapshot);
    for (case, client, want) in
        [("label", [127, 0, 0, 2], 201), ("namespace", [127, 0, 0, 3], 202), ("no pod", [127, 0, 0, 4], 203)]
    {
        assert_eq!(ask_from(&world, client).await, want, "{case}");
    }
}

#[tokio::test]
async fn ipv4_over_an_ipv6_listener_is_ipv4() {
    let endpoint = Endpoint::named("a").await;
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let front = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let redirector = Redirector::start(vec![vec![listener]], Options::default()).unwrap();
    redirector.apply(Setup::http(&[&endpoint], json!([rule(json!({}))])).snapshot(front));
    let world = World { front, redirector };
    assert_eq!(world.ask("GET /").await.body, "a");
    assert_eq!(endpoint.last().headers["x-forwarded-for"], "127.0.0.1");
}

#[tokio::test]
async fn pods_keep_their_address_where_that_is_asked_for() {
    // Tells each client its address; passed through, so that it is the redirector's socket that is told.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, peer)) = listener.accept().await {
            let borrowed = if peer.port() >= 61_001 { " borrowed" } else { "" };
            socket.write_all(format!("{}{borrowed}", peer.ip()).as_bytes()).await.unwrap();
        }
    });
    let setup = || Setup {
        endpoints: vec![(&endpoint, json!({}))],
        port: json!({"name": "tcp"}),
        ..Setup::default()
    };
    let world =
        Setup { options: Options { source: SourceAddress::Client, ..Options::default() }, ..setup() }.start();
    let mut snapshot = setup().snapshot(world.front);
    let lender = |name: &str, address| Pod { can_lend: true, ..pod(name, address, json!({})) };
    let elsewhere = pod("elsewhere", [127, 0, 0, 4], json!({}));
    let endpoint = pod("endpoint", [127, 0, 0, 1], json!({}));
    let answers = Pod { answers_at: endpoint.addresses.clone(), ..endpoint.clone() };
    snapshot.pods.extend([lender("web", [127, 0, 0, 2]), elsewhere]);
    let with = |endpoint: Pod| {
        let mut snapshot = snapshot.clone();
        snapshot.pods.push(endpoint);
        snapshot
    };
    for (case, endpoint, client, want) in [
        ("a pod", answers.clone(), [127, 0, 0, 2], "127.0.0.2 borrowed"),
        ("no pod", answers.clone(), [127, 0, 0, 3], "127.0.0.1"),
        ("a pod of another node", answers.clone(), [127, 0, 0, 4], "127.0.0.1"),
        ("whose replies would not come back", endpoint, [127, 0, 0, 2], "127.0.0.1"),
        ("that asks itself", Pod { can_lend: true, ..answers }, [127, 0, 0, 1], "127.0.0.1"),
    ] {
        world.redirector.apply(with(endpoint));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client.into(), 0)).unwrap();
        let mut stream = socket.connect(world.front).await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        assert_eq!(told, want, "{case}");
    }
}

#[tokio::test]
async fn each_request_is_one_line_of_json() {
    const CHILD: &str = "REDIRECTOR_LOG_CHILD";
    if std::env::var_os(CHILD).is_none() {
        // Standard error is one for all tests, so this one runs alone in a process of its own.
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "--nocapture", "clients::each_request_is_one_line_of_json"]).env(CHILD, "1");
        let output = child.output().await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [line] = lines.as_slice() else { panic!("{text}") };
        for (name, want) in [
            ("client", json!("127.0.0.1")),
            ("authority", json!("reviews")),
            ("method", json!("GET")),
            ("path", json!("/x?y")),
            ("status", json!(200)),
            ("virtualService", json!("shop/reviews")),
            ("rule", json!("http[0]")),
            ("destination", json!("reviews.shop.svc.cluster.local:80")),
            ("attempts", json!(1)),
        ] {
            assert_eq!(line[name], want, "{name}");
        }
        assert!(line["duration_ms"].is_number() && line["time"].is_number() && line["endpoint"].is_string());
        return;
    }
    let endpoint = Endpoint::named("a").await;
    let mut setup = Setup::http(&[&endpoint], json!([rule(json!({}))]));
    setup.options.access_log = Some(1.0);
    let world = setup.start();
    assert_eq!(world.ask("GET /x?y").await.status, 200);
}
