//! Walking a whole bucket page by page, for answers that are streamed.

use std::time::{Duration, Instant};

use service::{Context, Error, ScanPage, ScanRange, Service};

/// What a walk shows of each document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// What the caller may read.
    Readable,
    /// Everything, for admins.
    All,
}

/// The pages of a bucket, one at a time. Holds one page at most, so a slow reader costs no memory.
pub(crate) struct Pages {
    service: Service,
    ctx: Context,
    bucket: String,
    show: Show,
    range: ScanRange,
    /// Time for each page.
    page_time: Duration,
    /// When the whole walk must end, if the client said so.
    end: Option<Instant>,
    finished: bool,
}

impl Pages {
    /// Starts a walk; `range.limit` counts documents over all pages, 0 meaning all.
    pub(crate) fn new(
        service: Service,
        ctx: Context,
        bucket: &str,
        show: Show,
        range: ScanRange,
        page_time: Duration,
        end: Option<Instant>,
    ) -> Self {
        Self {
            service,
            ctx,
            bucket: bucket.to_owned(),
            show,
            range,
            page_time,
            end,
            finished: false,
        }
    }

    /// The next page; `None` after the last. The page's own continuation says whether the bucket goes on behind it.
    pub(crate) async fn next(&mut self) -> Result<Option<ScanPage>, Error> {
        if self.finished {
            return Ok(None);
        }
        let page_end = Instant::now() + self.page_time;
        self.ctx.deadline = self.end.map_or(page_end, |end| end.min(page_end));
        let (ctx, bucket, range) = (&self.ctx, &self.bucket, self.range.clone());
        let page = match self.show {
            Show::Readable => self.service.scan(ctx, bucket, range).await?,
            Show::All => self.service.export(ctx, bucket, range).await?,
        };
        self.range.continuation.clone_from(&page.continuation);
        self.finished =
            page.continuation.is_none() || self.limit_reached(page.documents.len() as u64);
        Ok(Some(page))
    }

    /// Counts documents off the limit.
    fn limit_reached(&mut self, documents: u64) -> bool {
        let limited = self.range.limit > 0;
        self.range.limit = self.range.limit.saturating_sub(documents);
        limited && self.range.limit == 0
    }
}
