"""The sources of rows of images, each with the files that its rows name. Used by ``reading``."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.dataset import Dataset
from finetune_api.markers import Digest
from finetune_trainer.data.image_files import ImageFiles
from finetune_trainer.data.image_rows import ImageRows, with_image_column
from finetune_trainer.data.readers import RowSource, read_files
from finetune_trainer.data.sources import SourceFile


@dataclass(frozen=True)
class ImageSources:
    """Rows to be read, and what was seen of images once they were."""

    rows: Sequence[RowSource]
    images: Sequence[ImageFiles]

    @classmethod
    def of(
        cls,
        form: ImageRows,
        files: Sequence[SourceFile],
        dataset: Dataset,
        groups: tuple[str, ...] = (),
    ) -> "ImageSources":
        """The sources of one role; ``groups`` are columns of ``evaluation.groups``."""
        images = [ImageFiles(file.origin, file.root) for file in files]
        rows = [
            RowSource(
                form=form.among(beside),
                path=file.path,
                name=file.name,
                format=dataset.format,
                columns=dataset.columns
                if file.path.is_dir()
                else with_image_column(dataset.columns, file.path.name),
                prefix=f"{file.path.name}:" if len(files) > 1 else "",
                groups=groups,
            )
            for file, beside in zip(files, images, strict=True)
        ]
        return cls(rows, images)

    def digests(self) -> list[Digest]:
        """Of the images that rows named, as far as rows were read."""
        return [files.digest() for files in self.images]

    def read_through(self) -> list[Digest]:
        """Read every row, decode nothing, and digest the images that rows name.

        Raises
        ------
        DataError
            If the rows can't be read.
        """
        for _ in read_files(self.rows):
            pass
        return self.digests()
