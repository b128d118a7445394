//! `larder acl check`: what a user may do, and which rule says so.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, Connect, Output, OutputArgs, Request, segment};

/// Explains who may do what
#[derive(Args, Clone, Debug)]
pub struct Acl {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    Check(Check),
}

/// Says whether a user may do something, rule by rule; for admins
///
/// Nothing is done. User and roles are those of now; a session whose token is older may still have others.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    larder acl check --as /db/User/10 --doc /db/Todo/1 --op write\n  \
    larder acl check --as 10 --doc /db/Todo --op query -o json")]
struct Check {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
    /// Id or key of the user; without it a caller who is not logged in
    #[arg(long = "as", value_name = "USER")]
    caller: Option<String>,
    /// The document, /db/BUCKET/KEY; or /db/BUCKET for the rules of its class alone
    #[arg(long, value_name = "ID")]
    doc: String,
    /// load (read), query, insert, update (write), delete or upsert
    #[arg(long, value_name = "OPERATION")]
    op: String,
}

/// Runs `larder acl`.
pub(crate) async fn run(acl: Acl) -> anyhow::Result<()> {
    let Verb::Check(check) = acl.verb;
    let client = Client::connect(&check.connect).await?;
    let (id, operation) = (segment(&check.doc), segment(&check.op));
    let user = segment(check.caller.as_deref().unwrap_or_default());
    let path = format!("/acl/check?as={user}&id={id}&operation={operation}");
    let answer = client.send(Method::GET, &path, Request::default()).await;
    let answer = answer.map_err(|failure| failure.report(check.output.output))?;
    match check.output.output {
        Output::Json => println!("{}", String::from_utf8_lossy(&answer.body)),
        Output::Text => print!("{}", text(&serde_json::from_slice(&answer.body)?)),
    }
    Ok(())
}

/// The decision for people.
fn text(answer: &Value) -> String {
    let member = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    let who = match answer["user"].as_str() {
        Some(user) => user.to_owned(),
        None => "nobody (not logged in)".to_owned(),
    };
    let roles: Vec<&str> = answer["roles"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let roles = match roles.as_slice() {
        [] => "no roles".to_owned(),
        roles => roles.join(" "),
    };
    let what = match answer["id"].as_str() {
        Some(id) if answer["exists"] == Value::Bool(false) => format!("{id} (there is none)"),
        Some(id) => id.to_owned(),
        None => format!("/db/{}", member(answer, "bucket")),
    };
    let _ = writeln!(out, "caller     {who}");
    let _ = writeln!(out, "roles      {roles}");
    let _ = writeln!(out, "operation  {} {what}", member(answer, "operation"));
    for check in answer["checks"].as_array().into_iter().flatten() {
        let name = format!("{} {}", member(check, "what"), member(check, "rules"));
        let verdict = verdict(&check["granted"]);
        let why = match (member(check, "reason").as_str(), check["by"].as_str()) {
            ("admin", _) => "an admin may, whatever the rules say".to_owned(),
            ("public", _) => "nobody is named as allowed, so everybody may".to_owned(),
            ("not_allowed", _) => "others are allowed, the caller is not".to_owned(),
            (reason, Some(by)) => format!("{by} is {reason}"),
            (reason, None) => reason.to_owned(),
        };
        let _ = writeln!(out, "\n{name}: {verdict}, {why}");
        for rule in check["judged"].as_array().into_iter().flatten() {
            let meant = match rule["meansCaller"] == Value::Bool(true) {
                true => "means the caller",
                false => "means others",
            };
            let (access, reference) = (member(rule, "access"), member(rule, "reference"));
            let _ = writeln!(out, "  {access:5}  {reference}  ({meant})");
        }
    }
    let end = match (answer["refusal"].as_str(), &answer["granted"]) {
        (Some(code), _) => format!("refused with {code}"),
        (None, Value::Bool(true)) => "granted".to_owned(),
        (None, _) => "left out of the result".to_owned(),
    };
    let _ = writeln!(out, "\n{end}");
    out
}

fn verdict(granted: &Value) -> &'static str {
    match granted {
        Value::Bool(true) => "granted",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_decision_is_told_rule_by_rule() {
        let answer = json!({
            "user": "/db/User/10", "roles": ["/db/Role/3"], "bucket": "Todo", "id": "/db/Todo/1",
            "exists": true, "operation": "update", "granted": false, "refusal": "permission_denied",
            "checks": [
                { "what": "class", "rules": "update", "granted": true, "reason": "public", "by": null, "judged": [] },
                { "what": "object", "rules": "write", "granted": false, "reason": "denied", "by": "/db/Role/3", "judged": [
                    { "reference": "/db/Role/3", "access": "deny", "meansCaller": true },
                    { "reference": "/db/User/11", "access": "allow", "meansCaller": false },
                ] },
            ],
        });
        let expected = "caller     /db/User/10\n\
            roles      /db/Role/3\n\
            operation  update /db/Todo/1\n\n\
            class update: granted, nobody is named as allowed, so everybody may\n\n\
            object write: refused, /db/Role/3 is denied\n  \
            deny   /db/Role/3  (means the caller)\n  \
            allow  /db/User/11  (means others)\n\n\
            refused with permission_denied\n";
        assert_eq!(text(&answer), expected);
    }
}
