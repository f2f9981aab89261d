//! Embedded broker: librdkafka's mock cluster, for `dev` and for tests that inject faults.
//!
//! It speaks Kafka's protocol on loopback (kcat can read from it) and keeps everything in memory
//! (5 MiB per partition). Its admin API supports neither topic creation nor configuration.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

type EmbeddedCluster = MockCluster<'static, DefaultProducerContext>;
type ClusterCommand = Box<dyn FnOnce(&EmbeddedCluster) + Send>;

/// A running embedded broker; ends when dropped.
pub struct EmbeddedKafka {
    bootstrap_servers: String,
    commands: Option<mpsc::Sender<ClusterCommand>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedKafka {
    /// Starts one broker on a free loopback port, with these topics and numbers of partitions.
    ///
    /// # Errors
    /// librdkafka's error message.
    pub fn start(topics: &[(String, i32)]) -> Result<Self, String> {
        let (commands, queued) = mpsc::channel::<ClusterCommand>();
        let (started, outcome) = mpsc::channel();
        // The cluster holds a raw pointer, so one thread owns it from start to end.
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

    /// Address of the broker, as `host:port`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Runs `run` on the cluster (to create a topic, inject an error or take the broker down) and
    /// waits for its result.
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
