//! HTTP by programs that we did not write: nginx answers, curl asks.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    wait,
    world::{Pod, World, kill, tool_path},
};

/// Bytes of a response that no client of ours reads to its end.
const LONG: u64 = 8 << 30;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx(Child);

impl Nginx {
    /// Ends it; its port is closed from now on.
    pub fn stop(&mut self) {
        kill(&mut self.0);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        kill(&mut self.0);
    }
}

/// What curl got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Status; 0 if there was none.
    pub status: u16,
    /// Headers, names in lower case; of several of one name, the last.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: String,
}

impl Response {
    /// What the server saw, by name: see [`nginx`].
    pub fn seen(&self, name: &str) -> &str {
        let field = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.len()));
        for line in self.body.lines() {
            if let Some((key, length)) = field(line)
                && key == name
            {
                return &line[line.len() - length..];
            }
        }
        ""
    }
}

/// Starts an nginx in `pod` that says who it is and what it sees of each request, one `name=value` per line; `/kb` is
/// 1,024 bytes. The next port speaks HTTP/2.
pub fn nginx(world: &World, pod: &Pod, port: u16) -> Nginx {
    let seen = [
        ("host", "$http_host"),
        ("uri", "$request_uri"),
        ("method", "$request_method"),
        ("forwarded", "$http_x_forwarded_for"),
        ("client", "$remote_addr"),
        ("added", "$http_x_added"),
        ("removed", "$http_x_removed"),
    ];
    let lines: String = seen.iter().map(|(name, value)| format!("{name}={value}\\n")).collect();
    let server = format!(
        "listen {port}; listen [::]:{port}; listen {2} http2; default_type text/plain; \
         add_header x-upstream {0}; add_header x-secret s;\nlocation /kb {{ access_log off; return 200 \"{1}\"; }}\n\
         location / {{ return 200 \"by={0}\\n{lines}\"; }}",
        pod.name,
        "x".repeat(1024),
        port + 1
    );
    let nginx = start(world.folder(), pod, &server);
    wait::until("nginx answers", || {
        let response = curl(pod, &[&format!("http://127.0.0.1:{port}/")]);
        if response.status == 200 { Ok(()) } else { Err(response) }
    });
    nginx
}

/// One that speaks HTTP/2 without TLS, by prior knowledge alone; `/long` is [`LONG`] zeros, half a megabyte a second.
pub fn nginx_http2(folder: &Path, pod: &Pod, port: u16) -> Nginx {
    let place = folder.join(format!("nginx-{}", pod.name));
    fs::create_dir_all(&place).expect("a folder");
    // A hole: no bytes on disk.
    let long = fs::File::create(place.join("long")).expect("a file");
    long.set_len(LONG).expect("a file has room");
    let server = format!(
        "listen {port} http2; access_log off; location / {{ return 200 \"{}\"; }} location = /long {{ root {}; limit_rate 512k; }}",
        "x".repeat(1024),
        place.display()
    );
    let nginx = start(folder, pod, &server);
    wait::until("nginx answers", || {
        let response = curl(pod, &["--http2-prior-knowledge", &format!("http://127.0.0.1:{port}/")]);
        if response.status == 200 { Ok(()) } else { Err(response) }
    });
    nginx
}

/// One that says its pod's name over TLS, HTTP/2 too, with a certificate for `name` that it has signed itself; and that
/// certificate.
pub fn nginx_tls(world: &World, pod: &Pod, port: u16, name: &str) -> (Nginx, PathBuf) {
    let folder = world.folder().join(format!("tls-{}", pod.name));
    fs::create_dir_all(&folder).expect("a folder");
    let (key, own) = (folder.join("key.pem"), folder.join("own.pem"));
    let mut command = Command::new(tool_path("openssl"));
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]);
    command.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
    let output = command.arg("-keyout").arg(&key).arg("-out").arg(&own).output().expect("openssl starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = format!(
        "listen {port} ssl http2; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 \"{}\"; }}",
        own.display(),
        key.display(),
        pod.name
    );
    let nginx = start(world.folder(), pod, &server);
    wait::until("nginx answers", || {
        let response = curl(pod, &["--insecure", &format!("https://127.0.0.1:{port}/")]);
        if response.status == 200 { Ok(()) } else { Err(response) }
    });
    (nginx, own)
}

/// Starts an nginx with one server of this configuration.
fn start(folder: &Path, pod: &Pod, server: &str) -> Nginx {
    let folder = folder.join(format!("nginx-{}", pod.name));
    fs::create_dir_all(&folder).expect("a folder");
    let place = folder.display();
    let spools = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let spools = spools.map(|kind| format!("{kind}_temp_path {place}/{kind};")).join(" ");
    let config = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log {place}/log; \
         {spools}\nkeepalive_requests 100000000; server {{ {server} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).expect("a configuration");
    let mut command = pod.command(&tool_path("nginx"));
    command.args(["-e", "stderr", "-c"]).arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    let log = fs::File::create(folder.join("stderr")).expect("a log");
    Nginx(command.stderr(log).spawn().expect("nginx starts"))
}

/// How many requests whose line contains `text` an nginx of [`nginx`] has logged.
pub fn logged(world: &World, pod: &Pod, text: &str) -> usize {
    let log = world.folder().join(format!("nginx-{}/log", pod.name));
    fs::read_to_string(log).unwrap_or_default().lines().filter(|line| line.contains(text)).count()
}

/// Runs curl in `pod` with these words, at most ten seconds.
pub fn curl(pod: &Pod, words: &[&str]) -> Response {
    let mut command = pod.command(&tool_path("curl"));
    let output = command.args(["-s", "-i", "--max-time", "10"]).args(words).output().expect("curl starts");
    let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Response { status, headers: lines.filter_map(header).collect(), body: body.to_owned() }
}
