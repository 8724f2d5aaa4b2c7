"""Every exception of pellucid, in one tree.

PellucidError           what pellucid raises on purpose                                  HTTP 500, exit 1
├── InputError              a picture or an argument that can't be used                  HTTP 422, exit 2
│   ├── UnreadableImageError      the bytes are not a picture, or are cut short          HTTP 422, exit 2
│   ├── UnsupportedImageError     a picture, of a sort that isn't handled                HTTP 415, exit 2
│   ├── ImageTooLargeError        more pixels than the limit, read from the header       HTTP 413, exit 2
│   ├── OutputExistsError         writing would replace a file                           HTTP 409, exit 2
│   ├── JournalError              the record of a batch can't be read or kept            HTTP 500, exit 2
│   ├── UnreachableError          a cluster or a store of files does not answer          HTTP 503, exit 2
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
├── ExportError             an exported network that does not give the network's result    HTTP 500, exit 4
├── TrainingError           a training that could not go on                              HTTP 500, exit 4
├── RecipeError             all faults of a recipe at once                               HTTP 422, exit 2
└── ServiceError            a request that the service can't answer as asked             HTTP 500, exit 4
    ├── BadRequestError           a body or a header that can't be read                  HTTP 400, exit 4
    ├── UnauthorizedError         no token, or a wrong one                               HTTP 401, exit 4
    ├── ForbiddenError            a host or an origin that isn't allowed                 HTTP 403, exit 4
    ├── UnknownJobError           there is no such job, or no longer                     HTTP 404, exit 4
    ├── NotAcceptableError        nothing that `Accept` allows can be sent               HTTP 406, exit 4
    ├── SlowUploadError           the body did not arrive in time                        HTTP 408, exit 4
    ├── UnfinishedJobError        the job has no result yet                              HTTP 409, exit 4
    ├── CanceledJobError          the job was canceled and has no result                 HTTP 410, exit 4
    ├── RequestTooLargeError      more bytes than the limit                              HTTP 413, exit 4
    ├── MediaTypeError            a body of a type that isn't taken                      HTTP 415, exit 4
    ├── ReusedKeyError            an idempotency key that stands for another job         HTTP 422, exit 4
    ├── OverloadedError           no place is free                                       HTTP 429, exit 4
    ├── EncoderError              the result could not be written to a file              HTTP 500, exit 4
    ├── AbandonedJobError         the service stopped on a job more than once            HTTP 500, exit 4
    ├── StoppingError             the service is stopping, or not ready yet              HTTP 503, exit 4
    ├── TimeLimitError            it took longer than the limit                          HTTP 504, exit 4
    └── StorageError              the service's disk takes no more                       HTTP 507, exit 4

A message says what was found, what was expected, and the next step.
"""

import errno


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


class JournalError(InputError):
    """The record of what was done in an output folder can't be read, or can't be kept."""

    http_status = 500


class UnreachableError(InputError):
    """A cluster or a store of files does not answer, or refuses."""

    http_status = 503


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


class ExportError(PellucidError):
    """An exported network that does not give the network's result; nothing was written."""

    exit_code = 4


class TrainingError(PellucidError):
    """A training that could not go on, for no fault of its recipe."""

    exit_code = 4


class RecipeError(PellucidError):
    """A recipe with faults, all of them in one message."""

    exit_code = 2
    http_status = 422


class ServiceError(PellucidError):
    """A request that the service can't answer as asked.

    `retry_after` is the number of seconds after which asking again makes sense, or none.
    """

    exit_code = 4

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ServiceError):
    """A body or a header that can't be read."""

    http_status = 400


class UnauthorizedError(ServiceError):
    """No token, or a wrong one."""

    http_status = 401


class ForbiddenError(ServiceError):
    """A host or an origin that isn't allowed."""

    http_status = 403


class UnknownJobError(ServiceError):
    """There is no such job, or no longer."""

    http_status = 404


class NotAcceptableError(ServiceError):
    """Nothing that `Accept` allows can be sent."""

    http_status = 406


class SlowUploadError(ServiceError):
    """The body did not arrive in time."""

    http_status = 408


class UnfinishedJobError(ServiceError):
    """The job has no result yet."""

    http_status = 409


class CanceledJobError(ServiceError):
    """The job was canceled and has no result."""

    http_status = 410


class RequestTooLargeError(ServiceError):
    """More bytes than the limit."""

    http_status = 413


class MediaTypeError(ServiceError):
    """A body of a type that isn't taken."""

    http_status = 415


class ReusedKeyError(ServiceError):
    """An idempotency key that stands for another job."""

    http_status = 422


class OverloadedError(ServiceError):
    """No place is free."""

    http_status = 429


class EncoderError(ServiceError):
    """The result could not be written to a file."""


class AbandonedJobError(ServiceError):
    """The service stopped on a job more than once."""


class StoppingError(ServiceError):
    """The service is stopping, or not ready yet."""

    http_status = 503


class TimeLimitError(ServiceError):
    """It took longer than the limit."""

    http_status = 504


class StorageError(ServiceError):
    """The service's disk takes no more."""

    http_status = 507


def reason(error: Exception) -> str:
    """Why the system refused, in its own words."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def some(words: list[str] | tuple[str, ...], separator: str = ", ", noun: str = "") -> str:
    """The first five of `words`, and how many more there are."""
    more = f" and {len(words) - 5:,} more {noun}".rstrip() if len(words) > 5 else ""
    return separator.join(words[:5]) + more


def write_refusal(path: object, error: Exception) -> InputError:
    """The refusal of a file that the system does not let write, with its reason and what to do."""
    return InputError(f"{path} can't be written: {reason(error)}. {write_remedy(error)}")


def write_remedy(error: Exception) -> str:
    """What to do where the system refused to write, as a sentence."""
    match error:
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return "Free some space or choose another folder."
        case OSError(errno=errno.EROFS):
            return "Choose another folder: this disk is read-only."
        case OSError(errno=errno.EACCES | errno.EPERM):
            return "Change the permissions of the file and its folder, or choose another folder."
        case _:
            return "Choose another name or folder."
