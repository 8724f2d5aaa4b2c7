"""Every exception of pellucid, in one tree.

PellucidError           what pellucid raises on purpose                                  HTTP 500, exit 1
├── InputError              a picture or an argument that can't be used                  HTTP 422, exit 2
│   ├── UnreadableImageError      the bytes are not a picture, or are cut short          HTTP 422, exit 2
│   ├── UnsupportedImageError     a picture, of a sort that isn't handled                HTTP 415, exit 2
│   ├── ImageTooLargeError        more pixels than the limit, read from the header       HTTP 413, exit 2
│   ├── OutputExistsError         writing would replace a file                           HTTP 409, exit 2
│   └── LeakError                 training pictures hold a test picture                  HTTP 422, exit 2
├── RegistryError           a name                                                       HTTP 500, exit 2
│   ├── UnknownNameError          nothing has this name; the nearest ones are offered    HTTP 404, exit 2
│   └── DuplicateNameError        two things claim one name                              HTTP 500, exit 2
├── CheckpointError         a file of weights                                            HTTP 500, exit 3
│   ├── UnsafeCheckpointError     would need unpickling                                  HTTP 500, exit 3
│   ├── CheckpointMismatchError   tensors and structure don't agree                      HTTP 500, exit 3
│   └── HashMismatchError         not the bytes that were expected                       HTTP 500, exit 3
├── RestorationError        a restoration that could not be finished                     HTTP 500, exit 4
│   ├── NonFiniteOutputError      NaN or infinity, also in float32                       HTTP 500, exit 4
│   ├── MemoryBudgetError         can't be done within the memory given                  HTTP 507, exit 4
│   └── UnsupportedDtypeError     the device or the network can't compute in this dtype  HTTP 500, exit 4
├── TrainingError           a training that could not go on                              HTTP 500, exit 4
└── RecipeError             all faults of a recipe at once                               HTTP 422, exit 2

A message says what was found, what was expected, and the next step.
"""


class PellucidError(Exception):
    """Root of all errors that pellucid raises on purpose.

    `exit_code` is what the command line ends with, `http_status` what a service answers.
    """

    exit_code = 1
    http_status = 500


class InputError(PellucidError):
    """A picture or an argument that can't be used."""

    exit_code = 2
    http_status = 422


class UnreadableImageError(InputError):
    """The bytes are not a picture, or are cut short."""


class UnsupportedImageError(InputError):
    """A picture, of a sort that isn't handled."""

    http_status = 415


class ImageTooLargeError(InputError):
    """More pixels than the limit; known from the header, before decoding."""

    http_status = 413


class OutputExistsError(InputError):
    """Writing would replace a file, and nobody asked for that."""

    http_status = 409


class LeakError(InputError):
    """Training pictures hold a test picture, and nobody allowed that."""


class RegistryError(PellucidError):
    """A name that can't be resolved."""

    exit_code = 2


class UnknownNameError(RegistryError):
    """Nothing has this name."""

    http_status = 404


class DuplicateNameError(RegistryError):
    """Two things claim one name."""


class CheckpointError(PellucidError):
    """A file of weights that can't be used."""

    exit_code = 3


class UnsafeCheckpointError(CheckpointError):
    """Reading the file would mean unpickling it; nothing was tried."""


class CheckpointMismatchError(CheckpointError):
    """Tensors and structure don't agree."""


class HashMismatchError(CheckpointError):
    """The file does not hold the bytes that were expected."""


class RestorationError(PellucidError):
    """A restoration that could not be finished."""

    exit_code = 4


class NonFiniteOutputError(RestorationError):
    """The network gave NaN or infinity, in float32 too."""


class MemoryBudgetError(RestorationError):
    """The picture can't be restored within the memory given."""

    http_status = 507


class UnsupportedDtypeError(RestorationError):
    """The device or the network can't compute in this dtype."""


class TrainingError(PellucidError):
    """A training that could not go on, for no fault of its recipe."""

    exit_code = 4


class RecipeError(PellucidError):
    """A recipe with faults, all of them in one message."""

    exit_code = 2
    http_status = 422
