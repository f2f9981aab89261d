//! `topics`: compares the topics that the bridge needs with those of the broker.

use super::{CommandExit, ConfigArguments, block_on};
use crate::config::Config;
use crate::kafka::topics::{TopicInspection, create_missing, inspect};

#[derive(clap::Args, Debug)]
pub struct TopicsArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Create missing topics; existing topics are never changed or deleted
    #[arg(long)]
    apply: bool,
}

pub fn run(arguments: TopicsArguments) -> CommandExit {
    let config = match arguments.config.load_with_kafka() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    match block_on(compare(&config, arguments.apply)) {
        Ok(is_as_configured) => CommandExit::success_if(is_as_configured),
        Err(error) => CommandExit::Failed.print_error(error),
    }
}

/// Compares the topics and creates missing ones if asked. Returns `true` if all are as configured.
async fn compare(config: &Config, apply: bool) -> Result<bool, crate::kafka::topics::Error> {
    let report = inspect(config).await?;
    print_report(&report);
    if !apply || !report.has_drifted() {
        if report.has_drifted() {
            println!(
                "\nthe topics are not as configured; `--apply` creates missing topics and changes nothing else"
            );
        }
        return Ok(!report.has_drifted());
    }
    println!();
    let mut has_failed = false;
    for (topic, result) in create_missing(config, &report).await? {
        match result {
            Ok(()) => println!("created {topic}"),
            Err(reason) => {
                has_failed = true;
                println!("could not create {topic}: {reason}");
            }
        }
    }
    if has_failed {
        return Ok(false);
    }
    // A new topic takes a moment to become visible.
    for _ in 0..20 {
        let after = inspect(config).await?;
        if !after.has_missing() {
            println!();
            print_report(&after);
            return Ok(!after.has_drifted());
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    println!("the created topics are not visible yet; run the command again in a moment");
    Ok(false)
}

fn print_report(report: &TopicInspection) {
    let width = report.topics.iter().map(|t| t.topic.len()).max();
    let width = width.unwrap_or(0);
    for topic in &report.topics {
        let partitions = match topic.partitions {
            0 => String::new(),
            n => format!("{n} partitions"),
        };
        let state = if topic.findings.is_empty() {
            "good"
        } else {
            ""
        };
        println!("{:width$}  {partitions:14}  {state}", topic.topic);
        for finding in &topic.findings {
            println!("{:width$}  - {finding}", "");
        }
    }
    if let Some(reason) = &report.unreadable {
        println!(
            "the settings of the topics could not be read ({reason}); only existence and partitions were compared"
        );
    }
}
