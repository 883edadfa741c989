//! A minimal HTTP/1.1 client for the admin API: one request, one connection, a deadline.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Head lines in lower case, `name: value`.
    pub head: String,
    /// Body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<Json> {
        serde_json::from_slice(&self.body).with_context(|| String::from_utf8_lossy(&self.body).into_owned())
    }

    /// The body as text, lossy.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET` of a path.
///
/// # Errors
/// No well-formed answer in time.
pub async fn get(addr: &str, path: &str) -> Result<Response> {
    request(addr, "GET", path, "", "").await
}

/// `POST` of a JSON body.
///
/// # Errors
/// No well-formed answer in time.
pub async fn post(addr: &str, path: &str, body: &Json) -> Result<Response> {
    request(addr, "POST", path, "content-type: application/json\r\n", &body.to_string()).await
}

/// Any request; `extra` holds further head lines, each closed by CRLF.
///
/// # Errors
/// No well-formed answer in time.
pub async fn request(addr: &str, method: &str, path: &str, extra: &str, body: &str) -> Result<Response> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {}\r\n{extra}\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        parse(&answer)
    };
    tokio::time::timeout(PATIENCE, exchange).await.with_context(|| format!("{method} {path}: no answer"))?
}

fn parse(answer: &[u8]) -> Result<Response> {
    let split = answer.windows(4).position(|w| w == b"\r\n\r\n").context("answer without a head")?;
    let head = String::from_utf8_lossy(&answer[..split]).to_lowercase();
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("answer without a status")?;
    let mut body = answer[split + 4..].to_vec();
    if head.contains("transfer-encoding: chunked") {
        body = dechunk(&body)?;
    }
    Ok(Response { status, head, body })
}

fn dechunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("cut chunk head")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Ok(body);
        }
        ensure!(rest.len() >= length + 2, "cut chunk");
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_a_cut_answer_is_refused() {
        let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = parse(whole).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"));
        assert!(parse(&whole[..whole.len() - 8]).is_err());
    }
}
