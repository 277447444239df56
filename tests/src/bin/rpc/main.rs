//! gRPC by tonic, which we did not write: `sluice-rpc serve NAME PORT` answers, `sluice-rpc call ADDRESS METHOD COUNT
//! [DEADLINE_MS]` asks over one channel and prints one line of JSON for each call.

use anyhow::{Result, bail};

mod client;
mod server;
mod text;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", name, port] => server::serve(name, port.parse()?).await,
        ["call", to, method, count] => client::call(to, method, count.parse()?, None).await,
        ["call", to, method, count, deadline_ms] => {
            client::call(to, method, count.parse()?, Some(deadline_ms.parse()?)).await
        }
        _ => bail!("usage: sluice-rpc serve NAME PORT | sluice-rpc call ADDRESS METHOD COUNT [DEADLINE_MS]"),
    }
}
