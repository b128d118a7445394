//! `larder.v1.Documents/Batch`: several writes in one call.

use proto::ErrorCode;
use proto::v1::{self, batch_write};
use service::{BatchOperation, BatchWrite, Document, Error};
use tonic::Request;

use super::documents::{Documents, condition, position, to_wire};
use crate::http::refuse;

impl Documents {
    /// All or nothing, or each write for itself.
    pub(super) async fn write_batch(
        &self,
        request: Request<v1::BatchRequest>,
        id: String,
    ) -> Result<v1::BatchResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let v1::BatchRequest { writes, atomic, .. } = request.into_inner();
        let writes = writes
            .into_iter()
            .map(batch_write)
            .collect::<Result<Vec<_>, _>>()?;
        let service = &self.shared.service;
        if atomic == Some(false) {
            let results = service.batch_each(&call.ctx, writes).await?;
            return Ok(v1::BatchResponse {
                results: results.into_iter().map(result).collect(),
                ..v1::BatchResponse::default()
            });
        }
        let documents = service.batch(&call.ctx, writes).await?;
        let first = documents.first();
        Ok(v1::BatchResponse {
            position: position(first.and_then(|document| document.served.as_ref())),
            documents: documents.into_iter().map(to_wire).collect(),
            results: Vec::new(),
        })
    }
}

fn result(result: Result<Document, Error>) -> v1::BatchResult {
    use v1::batch_result::Result as Wire;
    match result {
        Ok(document) => v1::BatchResult {
            position: position(document.served.as_ref()),
            result: Some(Wire::Document(to_wire(document))),
        },
        Err(error) => v1::BatchResult {
            position: String::new(),
            result: Some(Wire::Error(v1::BatchError {
                status: u32::try_from(i32::from(error.code.grpc_code())).unwrap_or_default(),
                code: error.code.as_str().to_owned(),
                effect: error.effect.as_str().to_owned(),
                message: error.message,
            })),
        },
    }
}

/// # Errors
/// `bad_request` without an operation.
fn batch_write(write: v1::BatchWrite) -> Result<BatchWrite, Error> {
    let operation = match write.operation {
        Some(batch_write::Operation::Put(json)) => BatchOperation::Put(json),
        Some(batch_write::Operation::Update(json)) => BatchOperation::Update(json),
        Some(batch_write::Operation::Delete(true)) => BatchOperation::Delete,
        Some(batch_write::Operation::Delete(false)) | None => {
            return Err(refuse(
                ErrorCode::BadRequest,
                "every write of a batch needs put, update, or delete: true",
            ));
        }
    };
    Ok(BatchWrite {
        bucket: write.bucket,
        key: write.key,
        condition: condition(write.precondition)?,
        operation,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_batch_write_without_operation_is_refused() {
        let write = |operation| v1::BatchWrite {
            bucket: "Todo".into(),
            key: "1".into(),
            precondition: None,
            operation,
        };
        let put = batch_write(write(Some(batch_write::Operation::Put(
            Bytes::from_static(b"{}"),
        ))))
        .expect("write");
        assert_eq!(
            put.operation,
            BatchOperation::Put(Bytes::from_static(b"{}"))
        );
        let delete = batch_write(write(Some(batch_write::Operation::Delete(true)))).expect("write");
        assert_eq!(delete.operation, BatchOperation::Delete);
        for operation in [None, Some(batch_write::Operation::Delete(false))] {
            assert!(batch_write(write(operation)).is_err());
        }
    }
}
