//! The connection to Redis: opening it, sending pipelines, and its errors.

use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value, cmd};
use tokio::time::timeout;

use super::protocol::RunIdKey;

/// Timeout for opening the connection, and for an answer; after it the connection is closed.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason why Redis is unavailable. Never contains text from the server or the address, which may
/// be secret.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisUnavailable(String);

impl RedisUnavailable {
    /// Redis answers too late.
    pub fn too_slow() -> Self {
        Self("it answers too late".to_owned())
    }

    /// The reason as text.
    pub fn reason(&self) -> &str {
        &self.0
    }

    /// Redis does not answer.
    pub fn no_answer() -> Self {
        Self("no answer".to_owned())
    }

    /// Redis answers with an error of this code, such as `READONLY`.
    pub fn from_code(code: &str) -> Self {
        let is_code = code.len() <= 16 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let code = if is_code { code } else { "an error" };
        Self(format!("it answers {code}"))
    }
}

impl From<&RedisError> for RedisUnavailable {
    fn from(error: &RedisError) -> Self {
        match error.code() {
            Some(code) => Self::from_code(code),
            None if error.is_connection_refusal() => Self("connection refused".to_owned()),
            None if error.is_timeout() => Self::no_answer(),
            None => Self(error.category().to_owned()),
        }
    }
}

/// First commands on a connection: they keep the epoch or begin a new one. Either proves that Redis
/// accepts writes.
pub struct EpochHandshake {
    /// This is the process' first connection: it has nothing to report, and the epoch may be kept.
    pub is_first: bool,
    /// Command that begins an epoch.
    pub begin_epoch: Cmd,
    /// Command that keeps the epoch; answers 0 if there is none.
    pub keep_epoch: Cmd,
    /// Key that holds the server's run id.
    pub run_id_key: RunIdKey,
}

/// Opens a connection and performs the handshake.
pub async fn connect(
    client: Client,
    handshake: EpochHandshake,
) -> Result<MultiplexedConnection, RedisUnavailable> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        handshake.perform(&mut connection).await?;
        Ok(connection)
    };
    match timeout(RESPONSE_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error: RedisError| RedisUnavailable::from(&error)),
        Err(_) => Err(RedisUnavailable::no_answer()),
    }
}

impl EpochHandshake {
    async fn perform(self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let run = fetch_run_id(connection).await;
        if self.is_first && run.is_some() {
            let known: Option<String> = cmd("GET")
                .arg(&self.run_id_key.key)
                .query_async(connection)
                .await?;
            if known == run && self.keep_epoch.query_async::<i64>(connection).await? == 1 {
                return Ok(());
            }
        }
        self.begin_epoch.exec_async(connection).await?;
        if let Some(run) = run {
            let RunIdKey { key, ttl_ms } = self.run_id_key;
            let mut store = cmd("SET");
            store.arg(key).arg(run).arg("PX").arg(ttl_ms);
            store.exec_async(connection).await?;
        }
        Ok(())
    }
}

/// Fetches the id of the server's present run; `None` if it does not tell.
async fn fetch_run_id(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut info = cmd("INFO");
    let info: String = info.arg("server").query_async(connection).await.ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(id.trim().to_owned())
}

/// Sends a pipeline and returns its answers, with the time they took. The answers to the first
/// `offset` commands are left out; none of those commands may fail.
pub async fn send_pipeline(
    mut connection: MultiplexedConnection,
    (pipeline, offset): (Pipeline, usize),
) -> Result<(Vec<Value>, Duration), RedisUnavailable> {
    let sent_at = Instant::now();
    if pipeline.is_empty() {
        return Ok((Vec::new(), Duration::ZERO));
    }
    let request = connection.req_packed_commands(&pipeline, 0, pipeline.len());
    match timeout(RESPONSE_TIMEOUT, request).await {
        Ok(Ok(mut values)) => {
            for value in values.drain(..offset.min(values.len())) {
                if let Value::ServerError(error) = value {
                    return Err(RedisUnavailable::from_code(error.code()));
                }
            }
            Ok((values, sent_at.elapsed()))
        }
        Ok(Err(error)) => Err(RedisUnavailable::from(&error)),
        Err(_) => Err(RedisUnavailable::no_answer()),
    }
}
