// SPDX-License-Identifier: Apache-2.0

//! The admin listener of a program that has no HTTP server of its own: `/healthz` (the process
//! answers), `/readyz` (it can do its work, else 503 with the reasons) and `/metrics`.
//!
//! It changes nothing and shows no secrets, so that a probe or a scraper of another machine may
//! reach it without authentication.

mod readiness;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Page;
pub use readiness::{Latch, Readiness};

/// The program that is looked at.
pub trait Observed: Send + Sync + 'static {
    /// Returns why the program cannot do its work at the moment; nothing if it can.
    fn obstacles(&self) -> Vec<&'static str>;

    /// Writes its metrics.
    fn metrics(&self, page: &mut Page);
}

/// The settings of the admin listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, serde::Serialize)]
pub struct AdminConfig {
    /// Answer /healthz, /readyz and /metrics here; off by default
    #[arg(long, env = "SLIPWAY_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,
}

/// Why the admin listener does not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address} for administration")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// An admin listener that accepts connections; they wait until [`serve`](Self::serve).
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
}

impl AdminConfig {
    /// Listens, if that is configured.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub async fn listen(&self) -> Result<Option<Admin>, AdminError> {
        let Some(address) = self.admin_listen else { return Ok(None) };
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| AdminError { address, source })?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "listening for administration");
        }
        Ok(Some(Admin { listener }))
    }
}

impl Admin {
    /// Answers until `stop`.
    pub async fn serve(self, program: Arc<impl Observed>, stop: CancellationToken) {
        let served = axum::serve(self.listener, router(program));
        let served = served.with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::warn!(%error, "the admin listener ended");
        }
    }
}

fn router<P: Observed>(program: Arc<P>) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "alive"}))))
        .route("/readyz", get(ready::<P>))
        .route("/metrics", get(metrics::<P>))
        .with_state(program)
}

async fn ready<P: Observed>(State(program): State<Arc<P>>) -> Response {
    let obstacles = program.obstacles();
    let status = match obstacles.as_slice() {
        [] => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let document = json!({"ready": obstacles.is_empty(), "obstacles": obstacles});
    (status, Json(document)).into_response()
}

async fn metrics<P: Observed>(State(program): State<Arc<P>>) -> Response {
    let mut page = Page::default();
    program.metrics(&mut page);
    ([(CONTENT_TYPE, Page::CONTENT_TYPE)], page.text()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    struct Program {
        readiness: Readiness,
    }

    impl Observed for Program {
        fn obstacles(&self) -> Vec<&'static str> {
            if self.readiness.is_ready() { Vec::new() } else { vec!["it is still starting"] }
        }

        fn metrics(&self, page: &mut Page) {
            page.family("slipway_slots", "gauge", "Builds that run at once.");
            page.plain(4);
        }
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn the_three_pages_are_answered_and_readiness_says_why_not() {
        let config = AdminConfig { admin_listen: "127.0.0.1:0".parse().ok() };
        let admin = config.listen().await.expect("a free port").expect("it is on");
        let address = admin.listener.local_addr().expect("an address");
        let (readiness, latch) = Readiness::new();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(admin.serve(Arc::new(Program { readiness }), stop.clone()));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let starting = ask(address, "/readyz").await;
        assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
        assert!(starting.contains("it is still starting"), "{starting}");
        drop(latch);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let page = ask(address, "/metrics").await;
        assert!(page.contains(Page::CONTENT_TYPE) && page.ends_with("slipway_slots 4\n"), "{page}");
        stop.cancel();
        serving.await.expect("it ends without a panic");
    }

    #[tokio::test]
    async fn it_is_off_by_default() {
        assert!(AdminConfig::default().listen().await.expect("nothing to do").is_none());
    }
}
