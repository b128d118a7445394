//! `larder consumer create|list|show|ack|pause|resume|delete`: durable consumers of a database's changes.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    Answer, Client, Connect, Output, OutputArgs, Request, read_secret, segment, text_member, usage,
};

/// Makes durable consumers of changes, shows how far each is, and has them go on.
///
/// A consumer remembers what it took over. It fetches changes (GET /changes?consumer=NAME), or has a target that they are sent to.
#[derive(Args, Clone, Debug)]
pub struct Consumer {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Makes a consumer; with --target changes are sent there, signed with a secret that is printed once
    #[command(after_help = "Examples:\n  \
        larder consumer create orders --bucket Order\n  \
        larder consumer create orders --bucket Order --filter '{\"paid\":true}' --from oldest\n  \
        larder consumer create mirror --target https://shop.example/hook --secret-file secret.txt")]
    Create(Create),
    /// Prints the consumers of the database, one a line
    #[command(after_help = "Example:\n  larder consumer list")]
    List(List),
    /// Prints one consumer
    #[command(after_help = "Example:\n  larder consumer show orders -o json")]
    Show(Named),
    /// Says that everything up to a token was taken over; a position never goes back
    #[command(after_help = "Example:\n  larder consumer ack orders \"$TOKEN\"")]
    Ack(Ack),
    /// Sends nothing more to a consumer's target
    #[command(after_help = "Example:\n  larder consumer pause mirror")]
    Pause(Named),
    /// Sends again, and at once: after a pause, or to a target that was sick
    #[command(after_help = "Example:\n  larder consumer resume mirror")]
    Resume(Named),
    /// Deletes a consumer and its position
    #[command(after_help = "Example:\n  larder consumer delete orders")]
    Delete(Named),
}

#[derive(Args, Clone, Debug)]
struct List {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
struct Named {
    #[command(flatten)]
    to: List,
    /// The consumer
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args, Clone, Debug)]
struct Ack {
    #[command(flatten)]
    consumer: Named,
    /// The id of a frame of the consumer's feed
    #[arg(value_name = "TOKEN")]
    token: String,
}

#[derive(Args, Clone, Debug)]
struct Create {
    #[command(flatten)]
    consumer: Named,
    /// Only this bucket (class); without it all
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
    /// Only documents that match
    #[arg(long, value_name = "JSON", requires = "bucket")]
    filter: Option<String>,
    /// Where it begins: now, oldest, snapshot (everything as it is first), or a token
    #[arg(long, value_name = "TOKEN", default_value = "now")]
    from: String,
    /// Send changes to this address
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// A file whose first line signs what is sent; without it a secret is made
    #[arg(long, value_name = "FILE", requires = "target")]
    secret_file: Option<PathBuf>,
}

/// Runs `larder consumer`.
pub(crate) async fn run(consumer: Consumer) -> anyhow::Result<()> {
    match consumer.verb {
        Verb::Create(create) => {
            let body = create.body()?;
            let named = &create.consumer;
            let answer = named.send(Method::POST, "", Some(body)).await?;
            print_one(&answer, named.to.output.output)
        }
        Verb::List(list) => {
            let answer = list.send(Method::GET, "/consumers", None).await?;
            print_all(&answer, list.output.output)
        }
        Verb::Show(named) => {
            let answer = named.send(Method::GET, "", None).await?;
            print_one(&answer, named.to.output.output)
        }
        Verb::Ack(Ack { consumer, token }) => {
            let body = json!({ "token": token });
            consumer.send(Method::POST, "/ack", Some(body)).await?;
            Ok(())
        }
        Verb::Pause(named) => named.send(Method::POST, "/pause", None).await.map(drop),
        Verb::Resume(named) => named.send(Method::POST, "/resume", None).await.map(drop),
        Verb::Delete(named) => named.send(Method::DELETE, "", None).await.map(drop),
    }
}

impl List {
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answer> {
        let client = Client::connect_as_root(&self.connect).await?;
        let request = Request {
            body: body.map(|body| body.to_string().into()),
            ..Request::default()
        };
        let answer = client.send(method, path, request).await;
        answer.map_err(|failure| failure.report(self.output.output))
    }
}

impl Named {
    async fn send(
        &self,
        method: Method,
        rest: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answer> {
        let path = format!("/consumers/{}{rest}", segment(&self.name));
        self.to.send(method, &path, body).await
    }
}

impl Create {
    fn body(&self) -> anyhow::Result<Value> {
        let mut body = json!({ "from": self.from });
        if let Some(filter) = &self.filter {
            body["filter"] = serde_json::from_str(filter)
                .map_err(|error| usage(format!("--filter is not JSON: {error}")))?;
        }
        if let Some(file) = &self.secret_file {
            body["secret"] = read_secret(file)?.into();
        }
        for (name, value) in [("bucket", &self.bucket), ("target", &self.target)] {
            if let Some(value) = value {
                body[name] = value.as_str().into();
            }
        }
        Ok(body)
    }
}

fn print_all(answer: &Answer, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", String::from_utf8_lossy(&answer.body));
        return Ok(());
    }
    let consumers: Vec<Value> =
        serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
    for consumer in &consumers {
        println!("{}", line(consumer));
    }
    Ok(())
}

fn print_one(answer: &Answer, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", String::from_utf8_lossy(&answer.body));
        return Ok(());
    }
    let consumer: Value =
        serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
    println!("{}", line(&consumer));
    if let Some(secret) = text_member(&consumer, "secret") {
        println!("secret {secret}");
        eprintln!("the secret is shown this once: the target needs it to check signatures");
    }
    Ok(())
}

/// A consumer as people read it: whether it gets on, how late it is, what it is told, and what is wrong.
fn line(consumer: &Value) -> String {
    let text = |name: &str| text_member(consumer, name);
    let lag = match consumer["lagSeconds"].as_f64() {
        Some(lag) => format!("{lag:.0} s late"),
        None => "lag not known yet".to_owned(),
    };
    let mut line = format!(
        "{} {} {lag} {} events",
        text("name").unwrap_or_default(),
        text("state").unwrap_or_default(),
        consumer["events"],
    );
    for (name, before) in [("bucket", "of"), ("target", "to"), ("failure", "failure:")] {
        if let Some(value) = text(name) {
            line.push_str(&format!(" {before} {value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_keeps_a_consumer() {
        let consumer = json!({
            "name": "orders", "state": "retrying", "events": 7, "lagSeconds": 12.4,
            "bucket": "Order", "target": "https://shop.example/hook",
            "failure": "the target answered 503",
        });
        assert_eq!(
            line(&consumer),
            "orders retrying 12 s late 7 events of Order to https://shop.example/hook failure: the target answered 503"
        );
        let fresh = json!({ "name": "a", "state": "active", "events": 0 });
        assert_eq!(line(&fresh), "a active lag not known yet 0 events");
    }
}
