//! A broker inside this process: librdkafka's mock cluster, for `dev` and for tests that inject faults.
//!
//! It speaks Kafka's protocol on loopback (kcat reads from it), keeps everything in memory (5 MiB a partition) and
//! knows neither topic creation nor configuration through the admin API.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// librdkafka's mock cluster with one owner.
type EmbeddedCluster = MockCluster<'static, DefaultProducerContext>;
type ClusterCommand = Box<dyn FnOnce(&EmbeddedCluster) + Send>;

/// A running embedded broker; ends when dropped.
pub struct EmbeddedKafka {
    bootstrap_servers: String,
    commands: Option<mpsc::Sender<ClusterCommand>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedKafka {
    /// Starts one broker on a free port of loopback, with these topics.
    ///
    /// # Errors
    /// What librdkafka says.
    pub fn start(topics: &[(String, i32)]) -> Result<Self, String> {
        let (commands, queued) = mpsc::channel::<ClusterCommand>();
        let (started, outcome) = mpsc::channel();
        // The cluster holds a raw pointer: one thread owns it from its making to its end.
        let thread = std::thread::Builder::new()
            .name("embedded-kafka".into())
            .spawn(move || {
                let cluster = match EmbeddedCluster::new(1) {
                    Ok(cluster) => cluster,
                    Err(error) => return drop(started.send(Err(error.to_string()))),
                };
                let _ = started.send(Ok(cluster.bootstrap_servers()));
                queued.into_iter().for_each(|command| command(&cluster));
            })
            .map_err(|e| e.to_string())?;
        let bootstrap_servers = outcome
            .recv()
            .map_err(|_| "the broker's thread ended".to_owned())??;
        let broker = Self {
            bootstrap_servers,
            commands: Some(commands),
            thread: Some(thread),
        };
        for (topic, partitions) in topics {
            let (topic, partitions) = (topic.clone(), *partitions);
            broker
                .with_cluster(move |cluster| cluster.create_topic(&topic, partitions, 1))
                .map_err(|e| e.to_string())?;
        }
        Ok(broker)
    }

    /// `host:port`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Runs something on the cluster (create a topic, inject an error, take the broker down) and waits for its result.
    pub fn with_cluster<T: Send + 'static>(
        &self,
        run: impl FnOnce(&EmbeddedCluster) -> T + Send + 'static,
    ) -> T {
        let (done, result) = mpsc::channel();
        let command: ClusterCommand = Box::new(move |cluster| drop(done.send(run(cluster))));
        self.commands
            .as_ref()
            .and_then(|commands| commands.send(command).ok())
            .and_then(|()| result.recv().ok())
            .expect("the embedded broker's thread lives as long as its handle")
    }
}

impl Drop for EmbeddedKafka {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
