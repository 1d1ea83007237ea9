//! A web service whose handler deploys one site at a time, and which shuts down gracefully. Run
//! `cargo run --manifest-path examples/web/Cargo.toml -- locks.redb`, then
//! `curl -X POST http://127.0.0.1:8080/deploy/blog`.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use lockmgr::LockManager;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: web STORE [ADDRESS]")?;
    let address = arguments.next().unwrap_or("127.0.0.1:8080".into());
    let manager = LockManager::open(path)?;
    let service = Router::new()
        .route("/deploy/{site}", post(deploy))
        .with_state(manager);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    // The requests at work end first, and their guards release.
    let until = async { drop(tokio::signal::ctrl_c().await) };
    Ok(axum::serve(listener, service)
        .with_graceful_shutdown(until)
        .await?)
}

/// If the client hangs up, axum drops this future: the request for the lock leaves the queue, or the
/// guard releases in the background.
async fn deploy(
    State(manager): State<LockManager>,
    Path(site): Path<String>,
) -> Result<String, (StatusCode, String)> {
    let request = manager
        .acquire([format!("deploy:{site}")])
        .note("a request of the web service");
    let guard = match request.try_lock_for_async(Duration::from_secs(2)).await {
        Ok(guard) => guard,
        Err(busy) if busy.is_contention() => {
            return Err((StatusCode::CONFLICT, format!("{busy}\n")));
        }
        Err(error) => return Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
    };
    tokio::time::sleep(Duration::from_millis(500)).await; // the work
    let token = guard.token();
    let released = guard.release_async().await;
    released.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    Ok(format!("deployed {site}, with token {token}\n"))
}
