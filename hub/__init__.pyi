from hub.dataset import publish_dataset as publish_dataset
from hub.publish import publish_model as publish_model
from hub.push import compare_with_hub as compare_with_hub
from hub.push import push_folder as push_folder
from hub.release import release_zoo as release_zoo
from hub.space import publish_space as publish_space
