//! Arrays put together from tiles: the shards of a tensor, each at its place.
//!
//! Whatever a conversion does to a tensor's layout (joining shards, taking a layer of a stack,
//! splitting query, key and value, cutting padding, transposing) moves tiles or relabels axes. No
//! element is touched until [`Tiled::read`] copies a range of the result.

use super::copy::{Layout, copy};
use super::strided::{Strided, c_order};
use super::{DType, Tensor, with_element};
use crate::error::{Error, Result};
use std::ops::Range;

/// A part of an array.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Index of its first element.
    pub at: Vec<usize>,
    /// Its elements.
    pub part: Strided,
}

/// An array that tiles cover exactly: every element lies in one tile.
#[derive(Clone, Debug)]
pub struct Tiled {
    dtype: DType,
    /// The axes that tiles are placed on.
    grid: Vec<usize>,
    tiles: Vec<Tile>,
}

impl Tiled {
    /// An array that is one tile.
    pub fn one(part: impl Into<Strided>) -> Self {
        let part = part.into();
        Self {
            dtype: part.dtype(),
            grid: part.shape().to_vec(),
            tiles: vec![Tile {
                at: vec![0; part.shape().len()],
                part,
            }],
        }
    }

    /// An array of `shape` from tiles that form a grid on it: cuts that go all the way through.
    /// This is how tensor-parallel shards, layers of a stack and chunks of a distributed checkpoint
    /// lie.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if types differ, or the tiles do not cover the array exactly once.
    pub fn new(dtype: DType, shape: &[usize], mut tiles: Vec<Tile>) -> Result<Self> {
        let mismatch = |found: String| Error::Mismatch {
            at: "tiles".into(),
            expected: format!("tiles that cover {dtype} {shape:?}, each element once"),
            found,
        };
        if let Some(other) = tiles.iter().find(|tile| tile.part.dtype() != dtype) {
            return Err(mismatch(format!("a tile of {}", other.part.dtype())));
        }
        if let Some(tile) = tiles.iter().find(|tile| !tile.is_inside(shape)) {
            let (at, extents) = (&tile.at, tile.part.shape());
            return Err(mismatch(format!("a tile of shape {extents:?} at {at:?}")));
        }
        if !shape.contains(&0) {
            tiles.retain(|tile| !tile.part.shape().contains(&0));
            tiles.sort_by(|a, b| a.at.cmp(&b.at));
            forms_grid(shape, &tiles).map_err(mismatch)?;
        }
        Ok(Self {
            dtype,
            grid: shape.to_vec(),
            tiles,
        })
    }

    /// Arrays joined along an axis, in order.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if there are none, they have no such axis, or their types or other
    /// extents differ.
    pub fn concat(parts: Vec<Strided>, axis: usize) -> Result<Self> {
        let mismatch = |found: String| Error::Mismatch {
            at: "shards".into(),
            expected: format!("arrays that join along axis {axis}"),
            found,
        };
        let Some(first) = parts.first() else {
            return Err(mismatch("none".into()));
        };
        let (dtype, mut grid) = (first.dtype(), first.shape().to_vec());
        let shapes: Vec<_> = parts.iter().map(|part| part.shape().to_vec()).collect();
        let fits = |shape: &[usize]| {
            let pairs = || shape.iter().zip(&grid).enumerate();
            axis < shape.len()
                && shape.len() == grid.len()
                && pairs().all(|(i, (a, b))| i == axis || a == b)
        };
        if let Some(odd) = shapes.iter().position(|shape| !fits(shape)) {
            let found = format!("{:?} and, at {odd}, {:?}", shapes[0], shapes[odd]);
            return Err(mismatch(found));
        }
        if let Some(odd) = parts.iter().position(|part| part.dtype() != dtype) {
            return Err(mismatch(format!(
                "{dtype} and, at {odd}, {}",
                parts[odd].dtype()
            )));
        }
        let mut tiles = Vec::with_capacity(parts.len());
        let mut next = 0;
        for part in parts {
            let mut at = vec![0; grid.len()];
            at[axis] = next;
            next += part.shape()[axis];
            tiles.push(Tile { at, part });
        }
        grid[axis] = next;
        Ok(Self { dtype, grid, tiles })
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.grid
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.grid.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tiles.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// The tiles, taken.
    pub fn into_tiles(self) -> Vec<Tile> {
        self.tiles
    }

    /// Only `range` of an axis.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the array does not have it.
    pub fn narrowed(mut self, axis: usize, range: Range<usize>) -> Result<Self> {
        if self
            .grid
            .get(axis)
            .is_none_or(|extent| range.end > *extent || range.start > range.end)
        {
            return Err(self.mismatch(format!("indices {range:?} on axis {axis}")));
        }
        self.grid[axis] = range.len();
        let tiles = self
            .tiles
            .into_iter()
            .filter_map(|tile| tile.narrowed(axis, &range));
        self.tiles = tiles.collect();
        Ok(self)
    }

    /// The array at one index of an axis, which goes away.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the array does not have the index.
    pub fn indexed(self, axis: usize, index: usize) -> Result<Self> {
        if self.grid.get(axis).is_none_or(|extent| index >= *extent) {
            return Err(self.mismatch(format!("index {index} on axis {axis}")));
        }
        let Self {
            dtype,
            mut grid,
            tiles,
        } = self;
        grid.remove(axis);
        let tiles = tiles
            .into_iter()
            .filter_map(|tile| tile.indexed(axis, index));
        Ok(Self {
            dtype,
            grid,
            tiles: tiles.collect(),
        })
    }

    /// An axis split in two, the second of extent `inner`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if there is no such axis or `inner` does not divide it.
    pub fn split(mut self, axis: usize, inner: usize) -> Result<Self> {
        let divides = |extent: &usize| inner > 0 && extent.is_multiple_of(inner);
        if !self.grid.get(axis).is_some_and(divides) {
            return Err(self.mismatch(format!("axis {axis} in groups of {inner}")));
        }
        self.grid[axis] /= inner;
        self.grid.insert(axis + 1, inner);
        self.tiles = self
            .tiles
            .into_iter()
            .flat_map(|tile| tile.split(axis, inner))
            .collect();
        Ok(self)
    }

    /// The array with its axes reordered: axis `i` of the result is axis `axes[i]` of `self`.
    ///
    /// # Panics
    /// If `axes` is no permutation of the axes.
    #[must_use]
    pub fn permuted(mut self, axes: &[usize]) -> Self {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        assert!(
            sorted.into_iter().eq(0..self.grid.len()),
            "a permutation of the axes"
        );
        self.grid = axes.iter().map(|axis| self.grid[*axis]).collect();
        for tile in &mut self.tiles {
            tile.at = axes.iter().map(|axis| tile.at[*axis]).collect();
            tile.part = tile.part.clone().permuted(axes);
        }
        self
    }

    /// Elements in one row: an index of the first axis.
    pub fn row_len(&self) -> usize {
        self.grid.iter().skip(1).product()
    }

    /// Number of rows; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.grid.first().copied().unwrap_or(1)
    }

    /// Hands the array over in pieces, in C order: each of at most `bytes` bytes, or one run along
    /// the last axis where that alone is longer.
    ///
    /// # Errors
    /// The first that `take` returns.
    pub fn pieces(&self, bytes: usize, take: &mut dyn FnMut(&Self) -> Result<()>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let row = self.row_len() * self.dtype.size();
        if row > bytes && self.grid.len() > 1 {
            return (0..self.rows()).try_for_each(|row| {
                let row = self.clone().indexed(0, row)?;
                row.pieces(bytes, take)
            });
        }
        if self.grid.is_empty() {
            return take(self);
        }
        let rows = (bytes / row.max(1)).max(1);
        (0..self.rows()).step_by(rows).try_for_each(|start| {
            let end = (start + rows).min(self.rows());
            take(&self.clone().narrowed(0, start..end)?)
        })
    }

    /// Copies rows `rows` in C order into `out`.
    ///
    /// # Panics
    /// If there are no such rows, or `out` is not as long as they are.
    pub fn read(&self, rows: Range<usize>, out: &mut [u8]) {
        assert!(rows.end <= self.rows(), "rows of the array");
        assert_eq!(
            out.len(),
            rows.len() * self.row_len() * self.dtype.size(),
            "as long as the rows"
        );
        let strides = c_order(&self.grid);
        for tile in &self.tiles {
            let (mut at, mut part) = (tile.at.clone(), tile.part.clone());
            if !self.grid.is_empty() {
                let Some(here) = tile.clone().narrowed(0, &rows) else {
                    continue;
                };
                (at, part) = (here.at, here.part);
            }
            let to = at
                .iter()
                .zip(&strides)
                .map(|(index, stride)| index * stride)
                .sum();
            let (offset, from) = part.layout();
            let from = Layout {
                offset,
                strides: from,
            };
            let to = Layout {
                offset: to,
                strides: &strides,
            };
            copy(
                self.dtype.size(),
                part.shape(),
                (part.bytes(), from),
                (out, to),
            );
        }
    }

    /// The whole array in memory.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for booleans other than 0 and 1.
    pub fn to_tensor(&self) -> Result<Tensor> {
        with_element!(self.dtype, T => {
            let mut data = vec![<T as bytemuck::Zeroable>::zeroed(); self.len()];
            self.read(0..self.rows(), bytemuck::cast_slice_mut(&mut data));
            Tensor::from_stored(self.dtype, &self.grid, data)
        })
    }

    fn mismatch(&self, expected: String) -> Error {
        Error::Mismatch {
            at: "array".into(),
            expected,
            found: format!("shape {:?}", self.grid),
        }
    }
}

impl Tile {
    /// What of the tile lies at one index of an axis, which goes away.
    pub fn indexed(self, axis: usize, index: usize) -> Option<Self> {
        let mut one = self.narrowed(axis, &(index..index.checked_add(1)?))?;
        one.at.remove(axis);
        one.part = one.part.without(axis);
        Some(one)
    }

    fn is_inside(&self, shape: &[usize]) -> bool {
        let extents = self.part.shape();
        let ends = self
            .at
            .iter()
            .zip(extents)
            .map(|(at, extent)| at.checked_add(*extent));
        self.at.len() == shape.len()
            && extents.len() == shape.len()
            && ends
                .zip(shape)
                .all(|(end, extent)| end.is_some_and(|end| end <= *extent))
    }

    /// What of the tile lies in `range` of an axis, placed from its start.
    fn narrowed(mut self, axis: usize, range: &Range<usize>) -> Option<Self> {
        let (start, extent) = (self.at[axis], self.part.shape()[axis]);
        let begin = range.start.max(start);
        let end = range.end.min(start.saturating_add(extent));
        if begin >= end {
            return None;
        }
        self.at[axis] = begin - range.start;
        self.part = self.part.narrowed(axis, begin - start..end - start);
        Some(self)
    }

    /// The tile on an axis that is split: up to three tiles, where it begins or ends inside a
    /// group.
    fn split(self, axis: usize, inner: usize) -> Vec<Self> {
        let (start, extent) = (self.at[axis], self.part.shape()[axis]);
        let end = start + extent;
        // The first boundary of groups in the tile and the last one.
        let first = start.next_multiple_of(inner).min(end);
        let last = (end / inner * inner).max(first);
        let cuts = [start..first, first..last, last..end];
        let pieces = cuts.into_iter().filter(|cut| !cut.is_empty()).map(|cut| {
            let part = self
                .part
                .clone()
                .narrowed(axis, cut.start - start..cut.end - start);
            let within = if cut.len() < inner { cut.len() } else { inner };
            let mut at = self.at.clone();
            at[axis] = cut.start / inner;
            at.insert(axis + 1, cut.start % inner);
            Self {
                at,
                part: part.split(axis, within),
            }
        });
        pieces.collect()
    }
}

/// Whether tiles, sorted by place and not empty, form a grid on `shape`: as many as there are
/// cells, each exactly one cell.
fn forms_grid(shape: &[usize], tiles: &[Tile]) -> Result<(), String> {
    let cuts: Vec<Vec<usize>> = (0..shape.len())
        .map(|axis| {
            let mut starts: Vec<usize> = tiles.iter().map(|tile| tile.at[axis]).collect();
            starts.sort_unstable();
            starts.dedup();
            starts
        })
        .collect();
    if tiles.is_empty() {
        return Err("none".into());
    }
    let cells = cuts
        .iter()
        .try_fold(1_usize, |n, starts| n.checked_mul(starts.len()));
    if cells != Some(tiles.len()) {
        return Err(format!("{} tiles that form no grid", tiles.len()));
    }
    for (index, tile) in tiles.iter().enumerate() {
        // Cells in the order of tiles that are sorted by place: the last axis goes fastest.
        let mut rest = index;
        for (axis, starts) in cuts.iter().enumerate().rev() {
            let cell = rest % starts.len();
            rest /= starts.len();
            let end = starts.get(cell + 1).copied().unwrap_or(shape[axis]);
            let (at, extent) = (tile.at[axis], tile.part.shape()[axis]);
            if at != starts[cell] || at + extent != end || starts[0] != 0 {
                let (at, extents) = (&tile.at, tile.part.shape());
                return Err(format!("a tile of shape {extents:?} at {at:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbered(shape: &[usize], first: i32) -> Tensor {
        let count: usize = shape.iter().product();
        let data = (first..).take(count).collect::<Vec<i32>>();
        Tensor::from_vec(shape, data).unwrap()
    }

    fn values(tiled: &Tiled) -> Vec<i32> {
        tiled
            .to_tensor()
            .unwrap()
            .as_slice::<i32>()
            .unwrap()
            .to_vec()
    }

    fn part(tensor: &Tensor, axis: usize, range: Range<usize>) -> Strided {
        Strided::from(tensor.clone()).narrowed(axis, range)
    }

    #[test]
    fn shards_join_along_either_axis() {
        let whole = numbered(&[4, 6], 0);
        for axis in 0..2 {
            let cut = [0..1, 1..4].map(|range| part(&whole, axis, range));
            let rest = part(&whole, axis, 4..whole.shape()[axis]);
            let tiled = Tiled::concat([cut.to_vec(), vec![rest]].concat(), axis).unwrap();
            assert!(tiled.to_tensor().unwrap().bits_equal(&whole));
        }
        let odd = Strided::from(numbered(&[4, 5], 0));
        assert!(Tiled::concat(vec![Strided::from(whole), odd], 0).is_err());
    }

    #[test]
    fn query_key_value_come_apart() {
        // Two heads of two rows each, fused per head; a rank has a head.
        let fused = numbered(&[12, 1], 0);
        let ranks = vec![part(&fused, 0, 0..6), part(&fused, 0, 6..12)];
        let fused = Tiled::concat(ranks, 0).unwrap();
        let grouped = fused.split(0, 2).unwrap().split(0, 3).unwrap();
        assert_eq!(grouped.shape(), [2, 3, 2, 1]);
        let query = grouped.clone().indexed(1, 0).unwrap();
        assert_eq!(values(&query), [0, 1, 6, 7]);
        let value = grouped.clone().indexed(1, 2).unwrap();
        assert_eq!(values(&value), [4, 5, 10, 11]);
        let by_part = grouped.permuted(&[1, 0, 2, 3]);
        assert_eq!(values(&by_part), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }

    #[test]
    fn a_split_may_cut_tiles() {
        let whole = numbered(&[12], 0);
        let parts = [0..1, 1..7, 7..8, 8..12].map(|range| part(&whole, 0, range));
        let tiled = Tiled::concat(parts.to_vec(), 0).unwrap();
        let split = tiled.split(0, 4).unwrap();
        assert_eq!(split.shape(), [3, 4]);
        assert_eq!(
            values(&split.clone().permuted(&[1, 0])),
            [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
        );
        assert_eq!(values(&split.indexed(0, 1).unwrap()), [4, 5, 6, 7]);
    }

    #[test]
    fn tiles_must_cover_exactly() {
        let whole = numbered(&[4, 4], 0);
        let tile = |at: [usize; 2], shape: [usize; 2]| Tile {
            at: at.to_vec(),
            part: part(&whole, 0, 0..shape[0]).narrowed(1, 0..shape[1]),
        };
        let new = |tiles: Vec<Tile>| Tiled::new(DType::I32, &[4, 4], tiles);
        assert!(new(vec![tile([2, 0], [2, 4]), tile([0, 0], [2, 4])]).is_ok());
        assert!(new(vec![tile([0, 0], [2, 4])]).is_err());
        assert!(new(vec![tile([0, 0], [2, 4]), tile([0, 0], [2, 4])]).is_err());
        assert!(new(vec![tile([0, 0], [3, 4]), tile([2, 0], [2, 4])]).is_err());
        assert!(new(vec![tile([1, 0], [3, 4])]).is_err());
        assert!(new(vec![tile([1, 0], [4, 4])]).is_err());
        assert!(new(Vec::new()).is_err());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let tiled = Tiled::one(numbered(&[4, 6], 0));
        assert!(tiled.clone().split(0, 3).is_err());
        assert!(tiled.clone().split(0, 0).is_err());
        assert!(tiled.clone().split(2, 1).is_err());
        assert!(tiled.clone().narrowed(0, 3..5).is_err());
        assert!(tiled.clone().indexed(1, 6).is_err());
        assert!(tiled.indexed(1, usize::MAX).is_err());
    }

    proptest! {
        /// Pieces are small, and together they are the array.
        #[test]
        fn pieces_are_the_array(
            shape in prop::collection::vec(0_usize..5, 0..4),
            bytes in 1_usize..100,
        ) {
            let whole = numbered(&shape, 7);
            let mut together = Vec::new();
            Tiled::one(whole.clone())
                .pieces(bytes, &mut |piece| {
                    let held = piece.len() * 4;
                    assert!(held <= bytes.max(4) || piece.shape().len() == 1);
                    let start = together.len();
                    together.resize(start + held, 0);
                    piece.read(0..piece.rows(), &mut together[start..]);
                    Ok(())
                })
                .unwrap();
            prop_assert_eq!(together, whole.bytes());
        }

        /// Whatever is done to axes, reading row by row, by any number of rows, gives what ndarray
        /// gives for the whole.
        #[test]
        fn reading_is_independent_of_the_rows_asked_for(
            shape in prop::collection::vec(1_usize..6, 1..4),
            cut in 0_usize..6,
            axis in 0_usize..3,
            step in 1_usize..4,
            reversed in any::<bool>(),
        ) {
            let axis = axis % shape.len();
            let cut = cut.min(shape[axis]);
            let whole = numbered(&shape, 7);
            let parts = vec![part(&whole, axis, 0..cut), part(&whole, axis, cut..shape[axis])];
            let mut axes: Vec<usize> = (0..shape.len()).collect();
            if reversed {
                axes.reverse();
            }
            let tiled = Tiled::concat(parts, axis).unwrap().permuted(&axes);
            let expected = whole.permuted(&axes);
            let mut bytes = Vec::new();
            for row in (0..tiled.rows()).step_by(step) {
                let rows = row..(row + step).min(tiled.rows());
                let mut out = vec![0; rows.len() * tiled.row_len() * 4];
                tiled.read(rows, &mut out);
                bytes.extend(out);
            }
            prop_assert_eq!(bytes, expected.bytes());
        }
    }
}
