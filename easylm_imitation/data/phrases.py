"""What answers say that refuse, or that tell which model gives them: regular expressions, whatever the case, over text
with plain apostrophes. tests/data/test_clean_rules.py lists what they have to catch, and what to let pass."""

# A model as models call themselves; no language that is a model of another, nor a person who works on AI.
_MACHINE = (r"(?:an (?:ai|artificial intelligence)\b(?:[ -](?:language|text|chat|based|powered|model|assistant|program|"
            r"system|chatbot|bot)\b)*+(?! (?:researcher|engineer|scientist|developer|expert|specialist|student|"
            r"enthusiast|consultant|professor|ethicist|artist|lawyer|company|startup))|"
            r"a (?:large )?language model(?: ai)?\b)")
_NOT = r"(?: cannot| can't| can not|(?: am|'m) (?:unable|not able) to| won't be able to)"
_DO = (r"(?:assist|help(?! (?:but|it|myself|\w+ing)\b)|fulfill?\b|provide|answer|comply|generate|create|engage in|"
       r"browse the (?:internet|web)|perform (?:this|that|the) (?:task|action))")
REFUSALS = (
    r"i(?:'m| am) (?:(?:really|very|so|truly|deeply|terribly|extremely) )?sorry,? but (?:i |as an ai)",
    rf"\bsorry,? (?:but i{_NOT}|(?:but )?(?:as|i am|i'm) {_MACHINE})",
    rf"\bsorry,? i{_NOT} (?:{_DO}|do (?:that|this)\b|perform|browse|access|predict|complete)",
    r"i apologi[sz]e,? but (?:i|as an ai)", r"too many requests in 1 hour", rf"\bi{_NOT} {_DO}",
    rf"\bas {_MACHINE},? i(?: cannot| can't| do not| don't| am not|'m not| am unable|'m unable| have no| lack)\b",
    rf"\bi(?: am|'m) (?:just |only )?{_MACHINE},?(?: and| so)?(?: i)? (?:cannot|can't|do not|don't|am not|am unable)\b",
    r"\bi (?:must|have to|will have to) (?:respectfully |politely )?decline (?:(?:this|that) request|to (?:answer|"
    r"assist|help|comply|respond|provide|generate|create|write|engage|participate|discuss|fulfil|do)\b)")
PUBLISHED_REFUSALS = {"gpt4all": ("ai language model", r"i'm sorry, i can't answer")}    # v1.1, and v1.2 too

SELF = (r"as an ai(?: language)? model", rf"\bas {_MACHINE},? (?:i|my)\b",
         rf"\bi(?:'m| am) (?:(?:just|only|simply|actually) )?(?:{_MACHINE}|chatgpt|gpt-?[34])",
         r"(?:trained|developed|created|made) by (?:openai|anthropic)\b", r"\bmy name is chatgpt",
         r"\b(?:i am|i'm|my name is) claude,? (?:an ai\b|a large|a language)",
         r"\bi(?: am|'m| was)\b[^.\n]{0,60}\b(?:trained|developed|created|made) by (?:google|meta|microsoft)\b")
MENTIONS = {
    "fastchat": ("openai", "chatgpt"),
    "koala": ("openai", "chatgpt", "gpt-3", "chadgpt", "gpt3", "chat-gpt", "open-ai", "open ai"),
}
