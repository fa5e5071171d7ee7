"""What a search costs, counted without a model."""

from raypref.core.search import NEEDS, NEXT, PARENT, Search


def guided_evaluations(search: Search, num_inference_steps: int) -> int:
    """Guided network evaluations of the sampler for one prompt; with guidance_scale above 1 each is two forwards."""
    if search.shape == "chain":
        first = 1 if search.same_start else search.candidates
        return first + (num_inference_steps - 1) * search.candidates
    plain = search.recorded()[-1] + 1 - len(search.recorded())
    inside = [step for step in search.recorded() if step < num_inference_steps - 1]
    ahead = [step + search.inner_steps for step in search.steps if NEXT in NEEDS[search.step_reward]]
    looked = [step for step in ahead if step < num_inference_steps - 1]
    moved = [step for step in search.steps if search.guidance.kind != "none" and step < num_inference_steps - 1]
    return 1 + plain + (len(inside) + len(looked)) * search.candidates + 2 * len(moved)


def guided_evaluations_of_picture(search: Search | None, num_inference_steps: int) -> int:
    """The same from noise to one finished picture; without a search, of a plain trajectory."""
    if search is None:
        return num_inference_steps
    reached = search.recorded()[-1] + 1
    return guided_evaluations(search, num_inference_steps) + max(0, num_inference_steps - 1 - reached)


def reward_calls(search: Search | None) -> int:
    """Predicted pictures that one finished picture asks to be scored, the finished one not counted."""
    if search is None:
        return 0
    needs = NEEDS[search.step_reward]
    children = search.candidates * len(search.steps) * (1 + (max(needs) == 2))
    fresh = [step for step in search.steps if step - search.inner_steps not in search.steps]
    return children + (len(fresh) if PARENT in needs else 0)
