//! A matrix in memory with any strides: what a transposed or narrowed tensor is.

use candle_core::{Layout, bail};

/// A matrix of `values`, none of whose elements lies outside; strides in elements.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub(super) values: &'a [T],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a, T: Copy + Default> Matrix<'a, T> {
    /// The tensor of this layout in the storage `values`. Errors: not two dimensions; an element outside the storage.
    pub(super) fn new(values: &'a [T], layout: &Layout) -> candle_core::Result<Self> {
        let (rows, columns) = layout.shape().dims2()?;
        let (row_stride, column_stride) = (layout.stride()[0], layout.stride()[1]);
        let values = &values[layout.start_offset()..];
        let last = rows.saturating_sub(1) * row_stride + columns.saturating_sub(1) * column_stride;
        if rows * columns > 0 && last >= values.len() {
            bail!("product: a matrix that reaches beyond its memory");
        }
        Ok(Self { values, rows, columns, row_stride, column_stride })
    }

    /// The same values with rows as columns.
    pub(super) fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Row-major without gaps. Panics when there are fewer values.
    #[cfg(test)]
    pub(super) fn dense(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self { values: &values[..rows * columns], rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// An element, zero beyond the edges.
    #[inline(always)]
    pub(super) fn get(&self, row: usize, column: usize) -> T {
        match row < self.rows && column < self.columns {
            true => self.values[row * self.row_stride + column * self.column_stride],
            false => T::default(),
        }
    }

    /// A row, where its values are neighbours.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> Option<&'a [T]> {
        (self.column_stride == 1).then(|| &self.values[row * self.row_stride..][..self.columns])
    }
}
