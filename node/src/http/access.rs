//! `GET /acl/check?as=/db/User/10&id=/db/Todo/1&operation=write`: what somebody may do, rule by rule; for admins.

use axum::response::Response;
use document::id::{decode_segment, parse_object_id};
use proto::ErrorCode;
use service::{AccessOperation, AccessQuestion, Error};

use super::edge::Call;
use super::error::refuse;
use super::fields::{decode, parameters};
use super::respond;

/// Answers with the decision, see [`service::AccessAnswer::to_json`].
pub(crate) async fn check(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let question = question(call.head.uri.query().unwrap_or_default())?;
    let answer = call.shared.service.check_access(&ctx, question).await?;
    Ok(respond::value(&answer.to_json()))
}

fn question(query: &str) -> Result<AccessQuestion, Error> {
    let (mut user, mut place, mut operation) = (None, None, None);
    for (name, value) in parameters(query) {
        let value = decode(name, value)?;
        match name {
            "as" => user = Some(value).filter(|user| !user.is_empty()),
            "id" => place = Some(target(&value)?),
            "operation" => operation = Some(parse(&value)?),
            _ => {}
        }
    }
    let (Some((bucket, key)), Some(operation)) = (place, operation) else {
        return Err(refuse(
            ErrorCode::BadRequest,
            "id (/db/<bucket>/<key> or /db/<bucket>) and operation are needed",
        ));
    };
    Ok(AccessQuestion {
        user,
        bucket,
        key,
        operation,
    })
}

fn parse(word: &str) -> Result<AccessOperation, Error> {
    AccessOperation::parse(word).ok_or_else(|| {
        let words = AccessOperation::WORDS;
        refuse(
            ErrorCode::BadRequest,
            format!("operation must be one of {words}"),
        )
    })
}

/// Bucket and key of a document's id; a bucket alone for `/db/<bucket>`.
fn target(id: &str) -> Result<(String, Option<String>), Error> {
    if let Some((bucket, key)) = parse_object_id(id) {
        return Ok((bucket.to_owned(), Some(key)));
    }
    let bucket = id.strip_prefix("/db/").and_then(decode_segment);
    match bucket.filter(|bucket| !bucket.is_empty() && !bucket.contains('/')) {
        Some(bucket) => Ok((bucket, None)),
        None => Err(refuse(
            ErrorCode::BadRequest,
            "id must be /db/<bucket>/<key>, or /db/<bucket>",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_whole_or_refused() {
        let read = question("as=%2Fdb%2FUser%2F10&id=/db/Todo/a%2520b&operation=write");
        assert_eq!(
            read,
            Ok(AccessQuestion {
                user: Some("/db/User/10".to_owned()),
                bucket: "Todo".to_owned(),
                key: Some("a b".to_owned()),
                operation: AccessOperation::Update,
            })
        );
        let class = question("id=/db/Todo&operation=query").expect("a class alone");
        assert_eq!((class.user, class.key), (None, None));
        for bad in [
            "",
            "id=/db/Todo/1",
            "operation=load",
            "id=Todo/1&operation=load",
            "id=/db/&operation=load",
            "id=/db/Todo/1&operation=fly",
        ] {
            let refused = question(bad).expect_err(bad);
            assert_eq!(refused.code, ErrorCode::BadRequest, "{bad}");
        }
    }
}
