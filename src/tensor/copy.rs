//! Copying between two strided layouts of the same shape.

/// A block of elements in a buffer: where it begins and how far apart neighbours are, in elements.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) offset: usize,
    pub(super) strides: &'a [usize],
}

/// Side of the squares in which two axes are swapped: both sides of a square stay in cache.
const SQUARE: usize = 32;

/// Copies a block of `shape`, of elements of `size` bytes, from one layout into another.
///
/// Axes that are contiguous on both sides are copied as runs of bytes; where the fastest axis of
/// one side is not that of the other, elements go in squares.
///
/// # Panics
/// If an element lies outside its buffer; callers have checked.
pub(super) fn copy(
    size: usize,
    shape: &[usize],
    from: (&[u8], Layout<'_>),
    to: (&mut [u8], Layout<'_>),
) {
    if shape.contains(&0) {
        return;
    }
    let axes = coalesced(shape, from.1.strides, to.1.strides);
    let (source, destination) = (from.0, to.0);
    let offsets = (from.1.offset, to.1.offset);
    match size {
        1 => walk::<1>(&axes, source, destination, offsets),
        2 => walk::<2>(&axes, source, destination, offsets),
        4 => walk::<4>(&axes, source, destination, offsets),
        8 => walk::<8>(&axes, source, destination, offsets),
        _ => unreachable!("no storage type has {size} bytes"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    extent: usize,
    from: usize,
    to: usize,
}

/// The axes with extents above 1, neighbours that are one axis on both sides joined.
fn coalesced(shape: &[usize], from: &[usize], to: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::with_capacity(shape.len());
    for ((extent, from), to) in shape.iter().zip(from).zip(to) {
        let axis = Axis {
            extent: *extent,
            from: *from,
            to: *to,
        };
        match axes.last_mut() {
            _ if axis.extent == 1 => {}
            Some(outer)
                if outer.from == axis.from * axis.extent && outer.to == axis.to * axis.extent =>
            {
                *outer = Axis {
                    extent: outer.extent * axis.extent,
                    ..axis
                };
            }
            _ => axes.push(axis),
        }
    }
    axes
}

fn walk<const N: usize>(
    axes: &[Axis],
    source: &[u8],
    destination: &mut [u8],
    (from, to): (usize, usize),
) {
    match axes {
        [] => copy_run::<N>(1, source, destination, (from, to)),
        [run @ Axis { from: 1, to: 1, .. }] => {
            copy_run::<N>(run.extent, source, destination, (from, to));
        }
        [only] => {
            for i in 0..only.extent {
                copy_run::<N>(
                    1,
                    source,
                    destination,
                    (from + i * only.from, to + i * only.to),
                );
            }
        }
        [rows, columns] if columns.from != 1 || columns.to != 1 => {
            for row in (0..rows.extent).step_by(SQUARE) {
                for column in (0..columns.extent).step_by(SQUARE) {
                    for i in row..(row + SQUARE).min(rows.extent) {
                        for j in column..(column + SQUARE).min(columns.extent) {
                            let from = from + i * rows.from + j * columns.from;
                            let to = to + i * rows.to + j * columns.to;
                            copy_run::<N>(1, source, destination, (from, to));
                        }
                    }
                }
            }
        }
        [outer, inner @ ..] => {
            for i in 0..outer.extent {
                let offsets = (from + i * outer.from, to + i * outer.to);
                walk::<N>(inner, source, destination, offsets);
            }
        }
    }
}

#[inline(always)]
fn copy_run<const N: usize>(
    count: usize,
    source: &[u8],
    destination: &mut [u8],
    (from, to): (usize, usize),
) {
    let run = count * N;
    destination[to * N..][..run].copy_from_slice(&source[from * N..][..run]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_are_one_are_joined() {
        let join = |shape: &[usize], from: &[usize], to: &[usize]| coalesced(shape, from, to).len();
        assert_eq!(join(&[2, 3, 4], &[12, 4, 1], &[12, 4, 1]), 1);
        assert_eq!(join(&[2, 3, 4], &[24, 4, 1], &[12, 4, 1]), 2);
        assert_eq!(join(&[3, 4], &[1, 3], &[4, 1]), 2);
        assert_eq!(join(&[1, 1], &[7, 7], &[1, 1]), 0);
    }
}
