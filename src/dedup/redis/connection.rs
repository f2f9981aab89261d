//! One connection: made, asked, and why it cannot be.

use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value, cmd};
use tokio::time::timeout;

/// The longest wait for a connection, and for an answer before the connection is given up.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why Redis cannot be asked. Never says what the server or the address says: that may be a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisUnavailable(String);

impl RedisUnavailable {
    /// Its answers come too late.
    pub fn too_slow() -> Self {
        Self("it answers too late".to_owned())
    }

    /// In words.
    pub fn reason(&self) -> &str {
        &self.0
    }

    /// It says nothing.
    pub fn no_answer() -> Self {
        Self("no answer".to_owned())
    }

    /// Of an error's code, such as `READONLY`.
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
            None if error.is_connection_refusal() => Self("the connection is refused".to_owned()),
            None if error.is_timeout() => Self::no_answer(),
            None => Self(error.category().to_owned()),
        }
    }
}

/// What is said to Redis first: the epoch is kept, or a new one begins. Either makes sure that Redis can be written to.
pub struct EpochHandshake {
    /// Whether this process comes for the first time: it has told Redis all it knows, and the epoch may be kept.
    pub is_first: bool,
    /// Begins an epoch.
    pub begin_epoch: Cmd,
    /// Keeps the epoch; 0 where there is none.
    pub keep_epoch: Cmd,
    /// Where it stands in which run of a server the epoch began, and for how long that is remembered, ms.
    pub run_id_key: (String, u64),
}

/// Connects and greets.
pub async fn connect(
    client: Client,
    greeting: EpochHandshake,
) -> Result<MultiplexedConnection, RedisUnavailable> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        greeting.perform(&mut connection).await?;
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
        let (server, lasts_ms) = self.run_id_key;
        if self.is_first && run.is_some() {
            let known: Option<String> = cmd("GET").arg(&server).query_async(connection).await?;
            let kept = known == run && self.keep_epoch.query_async::<i64>(connection).await? == 1;
            if kept {
                return Ok(());
            }
        }
        self.begin_epoch.exec_async(connection).await?;
        if let Some(run) = run {
            let mut note = cmd("SET");
            note.arg(server).arg(run).arg("PX").arg(lasts_ms);
            note.exec_async(connection).await?;
        }
        Ok(())
    }
}

/// What tells one run of a server from another; none where it does not say.
async fn fetch_run_id(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut info = cmd("INFO");
    let info: String = info.arg("server").query_async(connection).await.ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(id.trim().to_owned())
}

/// The answers to a pipeline, without those to its first `offset` commands, none of which may fail; and how long they took.
pub async fn send_pipeline(
    mut connection: MultiplexedConnection,
    (pipeline, offset): (Pipeline, usize),
) -> Result<(Vec<Value>, Duration), RedisUnavailable> {
    let since = Instant::now();
    if pipeline.is_empty() {
        return Ok((Vec::new(), Duration::ZERO));
    }
    let asking = connection.req_packed_commands(&pipeline, 0, pipeline.len());
    match timeout(RESPONSE_TIMEOUT, asking).await {
        Ok(Ok(mut values)) => {
            for value in values.drain(..offset.min(values.len())) {
                if let Value::ServerError(error) = value {
                    return Err(RedisUnavailable::from_code(error.code()));
                }
            }
            Ok((values, since.elapsed()))
        }
        Ok(Err(error)) => Err(RedisUnavailable::from(&error)),
        Err(_) => Err(RedisUnavailable::no_answer()),
    }
}
