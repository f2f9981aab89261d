//! `topics`: what the bridge needs against what the broker has.

use std::process::ExitCode;

use super::{ConfigArguments, EXIT_FAILED, block_on, report_mistakes};
use crate::config::Config;
use crate::kafka::topics::{TopicInspection, create_missing, inspect};

#[derive(clap::Args, Debug)]
pub struct TopicsArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Create the topics that are missing; never deletes, shrinks or grows one
    #[arg(long)]
    apply: bool,
}

pub fn run(arguments: TopicsArguments) -> ExitCode {
    let config = match arguments.config.load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    if let Err(mistake) = config.require_bootstrap_servers() {
        return report_mistakes(&[mistake]);
    }
    match block_on(compare(&config, arguments.apply)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Whether all is as configured in the end.
async fn compare(config: &Config, apply: bool) -> Result<bool, crate::kafka::topics::Error> {
    let report = inspect(config).await?;
    print_report(&report);
    if !apply || !report.has_drifted() {
        if report.has_drifted() {
            println!(
                "\nnot as configured; `--apply` creates what is missing and changes nothing else"
            );
        }
        return Ok(!report.has_drifted());
    }
    println!();
    let mut refused = false;
    for (topic, result) in create_missing(config, &report).await? {
        match result {
            Ok(()) => println!("created {topic}"),
            Err(reason) => {
                refused = true;
                println!("could not create {topic}: {reason}");
            }
        }
    }
    if refused {
        return Ok(false);
    }
    // A topic just created takes a moment to be seen.
    for _ in 0..20 {
        let after = inspect(config).await?;
        if !after.has_missing() {
            println!();
            print_report(&after);
            return Ok(!after.has_drifted());
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    println!("created topics are not to be seen yet; look again in a moment");
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
            "the topics' configuration could not be read ({reason}); only their existence and partitions were compared"
        );
    }
}
