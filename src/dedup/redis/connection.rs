//! One connection: made, asked, and why it cannot be.

use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value, cmd};
use tokio::time::timeout;

/// The longest wait for a connection, and for an answer before the connection is given up.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Why Redis cannot be asked. Never says what the server or the address says: that may be a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Away(String);

impl Away {
    /// Its answers come too late.
    pub fn slow() -> Self {
        Self("it answers too late".to_owned())
    }

    /// In words.
    pub fn why(&self) -> &str {
        &self.0
    }

    /// It says nothing.
    pub fn silent() -> Self {
        Self("no answer".to_owned())
    }

    /// Of an error's code, such as `READONLY`.
    pub fn code(code: &str) -> Self {
        let is_code = code.len() <= 16 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let code = if is_code { code } else { "an error" };
        Self(format!("it answers {code}"))
    }
}

impl From<&RedisError> for Away {
    fn from(error: &RedisError) -> Self {
        match error.code() {
            Some(code) => Self::code(code),
            None if error.is_connection_refusal() => Self("the connection is refused".to_owned()),
            None if error.is_timeout() => Self::silent(),
            None => Self(error.category().to_owned()),
        }
    }
}

/// What is said to Redis first: the epoch is kept, or a new one begins. Either makes sure that Redis can be written to.
pub struct Greeting {
    /// Whether this process comes for the first time: it has told Redis all it knows, and the epoch may be kept.
    pub is_first: bool,
    /// Begins an epoch.
    pub begin: Cmd,
    /// Keeps the epoch; 0 where there is none.
    pub keep: Cmd,
    /// Where it stands in which run of a server the epoch began, and for how long that is remembered, ms.
    pub server: (String, u64),
}

/// Connects and greets.
pub async fn connect(client: Client, greeting: Greeting) -> Result<MultiplexedConnection, Away> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = async {
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        greeting.say(&mut connection).await?;
        Ok(connection)
    };
    match timeout(PATIENCE, connecting).await {
        Ok(connected) => connected.map_err(|error: RedisError| Away::from(&error)),
        Err(_) => Err(Away::silent()),
    }
}

impl Greeting {
    async fn say(self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let run = run_id(connection).await;
        let (server, lasts_ms) = self.server;
        if self.is_first && run.is_some() {
            let known: Option<String> = cmd("GET").arg(&server).query_async(connection).await?;
            let kept = known == run && self.keep.query_async::<i64>(connection).await? == 1;
            if kept {
                return Ok(());
            }
        }
        self.begin.exec_async(connection).await?;
        if let Some(run) = run {
            let mut note = cmd("SET");
            note.arg(server).arg(run).arg("PX").arg(lasts_ms);
            note.exec_async(connection).await?;
        }
        Ok(())
    }
}

/// What tells one run of a server from another; none where it does not say.
async fn run_id(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut info = cmd("INFO");
    let info: String = info.arg("server").query_async(connection).await.ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some(id.trim().to_owned())
}

/// The answers to a pipeline, without those to its first `offset` commands, none of which may fail; and how long they took.
pub async fn ask(
    mut connection: MultiplexedConnection,
    (pipeline, offset): (Pipeline, usize),
) -> Result<(Vec<Value>, Duration), Away> {
    let since = Instant::now();
    if pipeline.is_empty() {
        return Ok((Vec::new(), Duration::ZERO));
    }
    let asking = connection.req_packed_commands(&pipeline, 0, pipeline.len());
    match timeout(PATIENCE, asking).await {
        Ok(Ok(mut values)) => {
            for value in values.drain(..offset.min(values.len())) {
                if let Value::ServerError(error) = value {
                    return Err(Away::code(error.code()));
                }
            }
            Ok((values, since.elapsed()))
        }
        Ok(Err(error)) => Err(Away::from(&error)),
        Err(_) => Err(Away::silent()),
    }
}
