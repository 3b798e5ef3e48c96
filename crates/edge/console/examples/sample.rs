//! Serves the console over sample objects, to look at it: `cargo run -p wharf-console --example sample -- 127.0.0.1:7071`.

#[path = "../tests/sample/mod.rs"]
mod sample;

use std::sync::Arc;

use wharf_http::Listener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7071".to_owned());
    let listener = Listener::tcp(address.parse()?, None).await?;
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    let console = sample::console();
    let handler = Arc::new(move |request| {
        let console = console.clone();
        Box::pin(async move { console.handle(request).await })
            as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    });
    listener.serve(handler, stopping).await;
    Ok(())
}
