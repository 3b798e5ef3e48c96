//! Serves a folder's images: `cargo run -p wharf-engineapi --example registry DIR ADDRESS`.

use std::sync::Arc;

use wharf_engineapi::registry::Registry;
use wharf_http::{Handler, Listener};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(address)) = (args.next(), args.next()) else {
        return Err("usage: registry DIR ADDRESS".into());
    };
    let images = wharf_image::Store::open(dir)?;
    images.serve_as(std::slice::from_ref(&address))?;
    let registry = Registry::new(Arc::new(images));
    let handler: Handler = Arc::new(move |request| {
        let registry = registry.clone();
        Box::pin(async move { registry.handle(request).await })
    });
    let (_running, stopping) = tokio::sync::watch::channel(false);
    Listener::tcp(address.parse()?, None).await?.serve(handler, stopping).await;
    Ok(())
}
