//! What the doc tests do not show: sessions, limits, and a client that outlives its node.

use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn bulk(text: &'static str) -> Reply {
    Reply::Bulk(text.into())
}

async fn start(data: &Path) -> Result<(Node, CancellationToken), NodeError> {
    let mut config = configure(&[("addr", "127.0.0.1:0")])?;
    config.data = data.to_owned();
    config.log_dir = data.to_owned();
    let shutdown = CancellationToken::new();
    Ok((Node::start(config, shutdown.clone()).await?, shutdown))
}

#[tokio::test]
async fn a_client_does_not_hold_the_files_of_a_stopped_node() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (node, shutdown) = start(dir.path()).await?;
    let mut client = node.client();
    assert_eq!(client.command(&["SET", "a", "1"]).await, Reply::Ok);
    shutdown.cancel();
    node.wait().await?;
    assert_eq!(client.command(&["GET", "a"]).await, refused("this client is closed"));

    let (node, shutdown) = start(dir.path()).await?;
    assert_eq!(node.command(&["GET", "a"]).await, bulk("1"));
    shutdown.cancel();
    Ok(node.wait().await?)
}

#[tokio::test]
async fn each_client_has_a_session_and_the_limits_of_a_socket() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (node, shutdown) = start(dir.path()).await?;
    let (mut one, mut two) = (node.client(), node.client());
    assert_eq!(one.pipeline(&[&["SELECT", "3"][..], &["SET", "a", "1"]]).await, [Reply::Ok, Reply::Ok]);
    assert_eq!(two.command(&["GET", "a"]).await, Reply::Nil);
    assert_ne!(one.command(&["CLIENT", "ID"]).await, two.command(&["CLIENT", "ID"]).await);

    let large = vec![b'x'; node.config().limits.bulk_bytes_max + 1];
    assert_eq!(two.command(&[b"ECHO", &large[..]]).await, refused("Protocol error: invalid bulk length"));
    assert_eq!(two.command::<&str>(&[]).await, refused("no command given"));
    assert!(
        matches!(two.command(&["NOSUCH"]).await, Reply::Error(text) if text.starts_with("ERR unknown command"))
    );

    assert_eq!(node.dispatcher().client_count(), 2);
    assert_eq!(one.pipeline(&[&["QUIT"][..], &["GET", "a"]]).await, [Reply::Ok]);
    assert_eq!(one.command(&["PING"]).await, refused("this client is closed"));
    drop(two);
    assert_eq!(node.dispatcher().client_count(), 0);
    shutdown.cancel();
    Ok(node.wait().await?)
}
