//! A small RESP client: one connection, pipelining, RESP2 or RESP3, a deadline on every wait.
//!
//! It never reconnects and never repeats a command by itself: the suites must know what was sent how often.

use std::fmt;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::resp::{self, Value};

/// Deadline of one reply unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a call that brought no reply. All of them leave the outcome of a write unknown, except
/// [`CallError::Connect`].
#[derive(Debug)]
pub enum CallError {
    /// The connection could not be made: nothing was sent.
    Connect(io::Error),
    /// The connection broke after sending.
    Broken(String),
    /// No reply in time.
    Timeout(Duration),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Connect(error) => write!(f, "connect: {error}"),
            CallError::Broken(why) => write!(f, "connection broke: {why}"),
            CallError::Timeout(after) => write!(f, "no reply within {after:?}"),
        }
    }
}

impl std::error::Error for CallError {}

/// One connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    patience: Duration,
}

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub async fn connect(addr: &str) -> Result<Self, CallError> {
        let connecting = timeout(PATIENCE, TcpStream::connect(addr)).await;
        let stream = connecting.map_err(|_| CallError::Connect(io::ErrorKind::TimedOut.into()))?;
        let stream = stream.map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        Ok(Self { stream, input: Vec::new(), patience: PATIENCE })
    }

    /// Sets the deadline of each following reply.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// The connection broke or its buffers stayed full.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        match timeout(self.patience, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CallError::Broken(error.to_string())),
            Err(_) => Err(CallError::Timeout(self.patience)),
        }
    }

    /// Receives the next reply.
    ///
    /// # Errors
    /// The connection broke, was closed, sent something that is no reply, or the deadline passed.
    pub async fn receive(&mut self) -> Result<Value, CallError> {
        let patience = self.patience;
        timeout(patience, self.receive_patiently()).await.unwrap_or(Err(CallError::Timeout(patience)))
    }

    /// Receives the next reply as the bytes that came.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub async fn receive_raw(&mut self) -> Result<Vec<u8>, CallError> {
        let patience = self.patience;
        let framed =
            timeout(patience, self.receive_framed()).await.unwrap_or(Err(CallError::Timeout(patience)));
        let (_, used) = framed?;
        Ok(self.input.drain(..used).collect())
    }

    async fn receive_patiently(&mut self) -> Result<Value, CallError> {
        let (value, used) = self.receive_framed().await?;
        self.input.drain(..used);
        Ok(value)
    }

    /// Waits for a whole reply at the start of the input, which it leaves there.
    async fn receive_framed(&mut self) -> Result<(Value, usize), CallError> {
        loop {
            match resp::decode(&self.input) {
                Ok(Some(framed)) => return Ok(framed),
                Ok(None) => {}
                Err(error) => return Err(CallError::Broken(format!("bad reply: {error:#}"))),
            }
            // Growing with what is there keeps the repeated decoding of large replies linear enough.
            self.input.reserve(self.input.len().max(16 * 1024));
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(CallError::Broken("closed by the server".into())),
                Ok(_) => {}
                Err(error) => return Err(CallError::Broken(error.to_string())),
            }
        }
    }

    /// True once the server has closed the connection and every byte it sent was taken; false if it sends a reply.
    ///
    /// # Errors
    /// The deadline passed.
    pub async fn closed(&mut self) -> Result<bool> {
        match self.receive().await {
            Ok(_) => Ok(false),
            Err(CallError::Broken(_)) => Ok(true),
            Err(other) => bail!(other),
        }
    }

    /// True if the server has ended the connection while nothing was asked of it. Does not wait.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self.stream.try_read(&mut [0]) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            // The end, or a byte that nobody has asked for.
            Ok(_) => true,
        }
    }

    /// Sends one command and receives its reply.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub async fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Result<Value, CallError> {
        let mut out = Vec::new();
        resp::encode(arguments, &mut out);
        self.send(&out).await?;
        self.receive().await
    }

    /// Sends one command given as words separated by single blanks.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn run(&mut self, words: &str) -> Result<Value> {
        let words: Vec<&str> = words.split(' ').collect();
        self.call(&words).await.with_context(|| format!("{words:?}"))
    }

    /// [`Client::run`] that takes nothing but `+OK`.
    ///
    /// # Errors
    /// Any other reply.
    pub async fn ok(&mut self, words: &str) -> Result<()> {
        let reply = self.run(words).await?;
        ensure!(reply.is_ok(), "{words}: expected +OK, got {reply:?}");
        Ok(())
    }

    /// [`Client::run`] that takes nothing but an integer.
    ///
    /// # Errors
    /// Any other reply.
    pub async fn int(&mut self, words: &str) -> Result<i64> {
        let reply = self.run(words).await?;
        reply.as_int().with_context(|| format!("{words}: expected an integer, got {reply:?}"))
    }

    /// [`Client::run`] that takes nothing but a string or nil.
    ///
    /// # Errors
    /// Any other reply.
    pub async fn text(&mut self, words: &str) -> Result<Option<String>> {
        match self.run(words).await? {
            Value::Nil => Ok(None),
            reply => match reply.as_bytes() {
                Some(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
                None => bail!("{words}: expected a string, got {reply:?}"),
            },
        }
    }

    /// Sends all commands at once, then receives all replies.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<Vec<Value>, CallError> {
        let mut out = Vec::new();
        for command in commands {
            resp::encode(command, &mut out);
        }
        let patience = self.patience;
        // Reading while writing: a server that answers as it reads must not be made to wait for us.
        let (mut reader, mut writer) = self.stream.split();
        let input = &mut self.input;
        let mut replies = Vec::with_capacity(commands.len());
        let receiving = async {
            let mut at = 0;
            while replies.len() < commands.len() {
                let decoded = resp::decode(&input[at..]);
                if let Some((value, used)) =
                    decoded.map_err(|error| CallError::Broken(format!("bad reply: {error:#}")))?
                {
                    at += used;
                    replies.push(value);
                    continue;
                }
                input.drain(..at);
                at = 0;
                input.reserve(input.len().max(16 * 1024));
                match reader.read_buf(input).await {
                    Ok(0) => return Err(CallError::Broken("closed by the server".into())),
                    Ok(_) => {}
                    Err(error) => return Err(CallError::Broken(error.to_string())),
                }
            }
            input.drain(..at);
            Ok(())
        };
        let sending =
            async { writer.write_all(&out).await.map_err(|error| CallError::Broken(error.to_string())) };
        match timeout(patience, async { tokio::try_join!(sending, receiving) }).await {
            Ok(Ok(_)) => Ok(replies),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::Timeout(patience)),
        }
    }
}
