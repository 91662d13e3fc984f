"""Packs a MovieLens "latest" folder into the two Parquet files that recjax ships.

    python -m tools.pack_movielens FOLDER

FOLDER holds `ratings.csv` or `ratings.csv.gz` (userId,movieId,rating,timestamp) and `movies.csv`
(movieId,title,year,genres: the year in a column of its own, not in the title). The files go to
recjax/data/movielens_latest_small/.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

TARGET = Path(__file__).parent.parent / "recjax/data/movielens_latest_small"


def main() -> None:
    """Reads the two CSV files, sorts the ratings by user and time, and writes Parquet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    source = next(path for path in (folder / "ratings.csv", folder / "ratings.csv.gz") if path.exists())
    ratings = pyarrow.csv.read_csv(source)
    ratings = ratings.rename_columns(["user", "item", "rating", "timestamp"])
    ratings = ratings.set_column(2, "rating", ratings["rating"].cast(pa.float32()))
    ratings = ratings.set_column(0, "user", ratings["user"].cast(pa.int32()))
    ratings = ratings.set_column(1, "item", ratings["item"].cast(pa.int32()))
    ratings = ratings.sort_by([("user", "ascending"), ("timestamp", "ascending"), ("item", "ascending")])
    movies = pyarrow.csv.read_csv(
        folder / "movies.csv",
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, column_types={"year": pa.int16()}),
    ).rename_columns(["item", "title", "year", "genres"])
    movies = movies.sort_by("item")  # the reader looks ids up by binary search
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, table in (("ratings", ratings), ("movies", movies)):
        pyarrow.parquet.write_table(table, TARGET / f"{name}.parquet", compression="zstd", compression_level=19)
        print(f"{name}.parquet: {table.num_rows:,} rows, {(TARGET / f'{name}.parquet').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
